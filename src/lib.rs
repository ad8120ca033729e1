//! `zk-flock` is flock(1) for clusters: it runs a command while it holds a lock that all hosts
//! share. `lockex` does the same with a queue or semaphore of kazoo, `distributex` with a lock
//! server, and `distributexd` is that server. All four are one executable.
//!
//! # Control flow
//!
//! ```text
//! argv ─► Options ─► + config file, environment ─► Plan ─► prepare ─► run ─► exit code
//!
//! run: lock Acquired ─► start command ─► command ended | lock lost | signal
//!      ─► process tree dead ─► minimum hold ─► release ─► exit
//! ```
//!
//! Start reading at [`run`], the loop, then at [`supervisor`], which decides. A run has two
//! processes: zk-flock holds the lock; the *guard*, forked just before the command, owns the
//! command's process tree and kills it before another host can hold the lock, whatever happens to
//! zk-flock. The server starts at [`serve`], its loop, and [`pool`], which decides.
//!
//! # Modules, by layer
//!
//! Decisions are *sans-I/O state machines*, as in [h11](https://h11.readthedocs.io) and
//! [rustls](https://docs.rs/rustls): functions of an event and the time, without sockets or clock.
//! Imports point down; `tests/documents/layers.rs` fails if one points up, or if a module below the
//! system calls does I/O. (`cli` reads one file, its config.)
//!
//! ## Effects: the loops and what they use
//!
//! | module | what it does |
//! | --- | --- |
//! | `program` | argv to exit code: picks the program, parses, runs |
//! | `run` | the loop of a client: feeds the machines and does what they return |
//! | `run::setup` | everything before the first byte to a server |
//! | `run::setup::file` | builds the locks of one host |
//! | `run::setup::http` | builds the lock of distributex |
//! | `run::setup::zookeeper` | builds the locks on ZooKeeper |
//! | `run::check` | `--check` of the clients |
//! | `run::driver` | the lock with its connection, files and name lookup |
//! | `run::guard_handle` | starts the guard, receives its reports, kills guard and tree |
//! | `run::guard_channel` | the messages between zk-flock and its guard |
//! | `run::guard` | the main function of the guard process |
//! | `run::system` | the seam between the loops of a run and the kernel |
//! | `run::signal_intake` | receives signals, and decides which have reached the command |
//! | `run::journal` | the facts of a run, its log lines, messages and stdout |
//! | `run::metrics_file` | writes the file of `--metrics` |
//! | `run::notifier` | reports the events of a run to the service manager |
//! | `run::files` | the files of `--local` locks |
//! | `run::lock_folder` | the folder of these files |
//! | `run::host_lock` | keeps a second distributex off this host |
//! | `run::oneshot` | the loop of a client that asks once |
//! | `run::evict` | takes a lock away: `--break` |
//! | `run::inspect` | `--status`: reads locks and prints what is known of them |
//! | `run::local_survey` | reads the locks of files of this host from /proc |
//! | `run::run_id` | the id of a run, and the file that keeps it |
//! | `run::witness` | reports whether a signal reached the whole process group |
//! | `serve` | the loop of the lock server |
//! | `serve::setup` | opens everything that the server needs |
//! | `serve::listener` | accepts connections, enforces the connection limit |
//! | `serve::service` | connects clients to pools |
//! | `serve::connection_table` | all open connections, by key, deadline and ticket |
//! | `serve::connection` | one connection and its deadlines |
//! | `serve::http_session` | requests and replies of one connection |
//! | `serve::access_log` | the line about a request and its reply |
//! | `serve::api` | what requests mean, and the bodies of replies |
//! | `serve::denials` | how many denied requests are logged |
//! | `serve::store` | the connection to memcached or ZooKeeper |
//! | `serve::page_cache` | pages that are sent again |
//! | `serve::system` | the seam between the server and the kernel |
//! | `serve::state_file` | the file in which holders outlive the server |
//! | `serve::server_log` | log lines about the server itself |
//! | `serve::server_metrics` | counters of the server as a whole |
//! | `prepare` | checks before the loop: PATH, load, names |
//! | `prepare::tls` | checks files and program of a connection by TLS |
//! | `prepare::resolver` | looks up server names, with a time limit |
//! | `prepare::lookup` | looks up server names again, in helper processes |
//! | `service_manager` | sends messages to the service manager |
//! | `link` | one non-blocking connection |
//! | `link::helper` | the helper commands of a connection |
//! | `link::helper_words` | why a helper command ended |
//! | `link::stream` | its socket: TCP, or a unix socket |
//! | `log` | writes log lines to a file, syslog or stderr |
//!
//! ## System calls, and the only unsafe code
//!
//! | module | what it does |
//! | --- | --- |
//! | `sys` | small safe functions, with a fallback for Linux 3.10 |
//! | `sys::poll` | poll(2) |
//! | `sys::epoll` | epoll(7) |
//! | `sys::timer` | a deadline as a descriptor |
//! | `sys::clock` | the clocks |
//! | `sys::signals` | signals read from a signalfd, with their sender |
//! | `sys::mask` | sets of signals, and the signal mask |
//! | `sys::disposition` | signal dispositions that exec preserves |
//! | `sys::inherited` | the state that a command is started with |
//! | `sys::entry` | the state in which this process was started |
//! | `sys::process` | fork, wait, kill, process groups |
//! | `sys::spawn` | starts a command |
//! | `sys::listen_pid` | sockets that a service manager opened for a command |
//! | `sys::pidfd` | descriptors that refer to a process |
//! | `sys::tree` | the process tree, read from /proc |
//! | `sys::scheduling` | the priority of processes |
//! | `sys::title` | name and arguments of the process in ps |
//! | `sys::daemon` | detaches from terminal and caller |
//! | `sys::descriptors` | descriptors by number |
//! | `sys::file` | files and their locks |
//! | `sys::folder` | folders by descriptor |
//! | `sys::socket` | socket pairs and their messages, and connects |
//! | `sys::notify` | one message to the service manager |
//! | `sys::tcp` | listening sockets, keepalive, unacknowledged bytes |
//! | `sys::random` | random bytes |
//! | `sys::helper` | starts a helper command of a connection |
//! | `sys::host` | the names of this host |
//! | `sys::testing` | helpers for tests: forks, refused system calls |
//!
//! ## State machines, `(event, now) → action`
//!
//! | module | what it does |
//! | --- | --- |
//! | `supervisor` | decides a run: lock, command, signals and deadlines |
//! | `guard` | decides for the guard: when the command must be killed |
//! | `lock` | the contract between a lock and the loop |
//! | `lock::period` | whether a run with `--every` is due |
//! | `lock::lookups` | when names of servers are looked up again |
//! | `lock::repeats` | counts failures that repeat |
//! | `lock::file` | locks of one host |
//! | `lock::file::local` | `--local` |
//! | `lock::file::record` | the record of the last run in the file of a lock |
//! | `lock::file::host_only` | the lock of a host, without a server |
//! | `lock::http` | distributex: a slot in a pool of a lock server |
//! | `lock::http::refusal` | replies that refuse access |
//! | `lock::http::reply` | replies of the lock server |
//! | `lock::http::residue` | what the server keeps after a release that has failed |
//! | `lock::zookeeper` | a lock that a ZooKeeper session holds, for any recipe |
//! | `lock::zookeeper::recipe` | the contract between session and recipe |
//! | `lock::zookeeper::layout` | names, paths and data of nodes, written and read |
//! | `lock::zookeeper::node` | zk-flock's lock, one node |
//! | `lock::zookeeper::queue_entry` | the queue of waiters for that node |
//! | `lock::zookeeper::queue` | kazoo's Lock, and readers |
//! | `lock::zookeeper::semaphore` | kazoo's Semaphore |
//! | `lock::zookeeper::parents` | creates the nodes above a lock |
//! | `lock::zookeeper::run_record` | the record of the last run of a lock |
//! | `lock::zookeeper::break_watch` | requests to release the lock |
//! | `lock::zookeeper::acl` | access control lists of nodes |
//! | `lock::zookeeper::fake` | a ZooKeeper in memory, for unit tests |
//! | `oneshot` | the contract of a client that asks once and takes no lock |
//! | `oneshot::http` | asks a lock server one thing |
//! | `oneshot::zookeeper` | a session that carries out one task |
//! | `probe` | what is known of a server that a client would use |
//! | `probe::srvr` | asks a ZooKeeper for its version and role |
//! | `probe::zookeeper` | tries in one server what a run would do, and makes nothing |
//! | `status` | what is known of locks, as a table and as JSON |
//! | `status::table` | the table |
//! | `status::json` | the JSON document |
//! | `status::http` | reads the pools of a lock server |
//! | `status::local` | what the kernel says of locked files |
//! | `status::zookeeper` | reads the locks below a node |
//! | `status::zookeeper::queues` | the queues by the locks that their waiters want |
//! | `eviction` | takes a lock away from its holder |
//! | `eviction::http` | revokes a lock at a lock server |
//! | `eviction::zookeeper` | asks the holder of a node, and deletes the node if need be |
//! | `textfile` | the file of `--metrics`, as text |
//! | `notify` | which messages to the service manager are due |
//! | `notify::server` | what a lock server reports to it |
//! | `notify::run` | what a run reports to it |
//! | `pool` | the contract between pools and the loop of the server |
//! | `pool::access` | which client may do what |
//! | `pool::pools` | pools by name, and the change of their config |
//! | `pool::waiters` | the waiters of a pool, in FIFO order |
//! | `pool::lease` | how much of a lease a client may rely on |
//! | `pool::effects` | what memcached and ZooKeeper have decided, until the loop takes it |
//! | `pool::events` | counts and logs what happens in a pool |
//! | `pool::reply_delivery` | whether a YES may have reached its host |
//! | `pool::invalid_request` | requests that are answered INVALID |
//! | `pool::state` | the holders as they are saved |
//! | `pool::status` | `/status/` |
//! | `pool::page` | `/status/` for browsers |
//! | `pool::page::view` | which pools the page shows, in which order |
//! | `pool::page::table` | the table of pools |
//! | `pool::page::revoke` | the form that revokes a lock |
//! | `pool::page::html` | texts, names and times in HTML |
//! | `pool::metrics` | `/metrics` |
//! | `pool::memory` | the backend in memory |
//! | `pool::memory::pool_state` | one pool: grants, renewals, expiry |
//! | `pool::memory::holders` | its holders, by host and by expiry |
//! | `pool::memory::outbox` | holds replies back until the state is saved |
//! | `pool::memory::interleaving_tests` | a server and its disk, in any order of events |
//! | `pool::memcached` | the backend on memcached |
//! | `pool::memcached::shared_pool` | one pool: its requests and its cycles |
//! | `pool::memcached::cas_cycle` | the phases of one read-modify-CAS cycle |
//! | `pool::memcached::list_update` | computes the change of a list, and the answers |
//! | `pool::memcached::leases` | the second key of a pool, `POOL:leases` |
//! | `pool::memcached::attempts` | leases written for hosts, and what became of each |
//! | `pool::memcached::holder_cache` | the list as it was last read |
//! | `pool::memcached::expiry` | how long memcached keeps a list |
//! | `pool::memcached::client` | one connection to memcached |
//! | `pool::memcached::protocol` | memcached's text protocol |
//! | `pool::memcached::fake` | a memcached in memory, for unit tests |
//! | `pool::memcached::interleaving_tests` | two servers, in any order of events |
//! | `pool::zookeeper` | the backend on ZooKeeper |
//! | `pool::zookeeper::shared_pool` | one pool, and what this server knows of it |
//! | `pool::zookeeper::cycle` | reads the record, and decides on it |
//! | `pool::zookeeper::write` | writes the change, and tells failures from lost answers |
//! | `pool::zookeeper::pending` | requests that are not answered yet, apart from waiters |
//! | `pool::zookeeper::replies` | the answers |
//! | `pool::zookeeper::report` | one pool, for status and metrics |
//! | `pool::zookeeper::dispatch` | gives each answer of ZooKeeper to its pool |
//! | `pool::zookeeper::deliveries` | grants that no client can know of |
//! | `pool::zookeeper::update` | computes the change of a record, and the answers |
//! | `pool::zookeeper::record` | the node of a pool: its holders as JSON |
//! | `pool::zookeeper::sightings` | since when this server has known each renewal |
//! | `pool::zookeeper::queue` | the entries of waiters, over all servers |
//! | `pool::zookeeper::queue_entry` | their names and data |
//! | `pool::zookeeper::fake` | servers on a ZooKeeper in memory, for unit tests |
//! | `pool::zookeeper::interleaving_tests` | three servers, in any order of events |
//!
//! ## Protocols, without I/O
//!
//! | module | what it does |
//! | --- | --- |
//! | `zookeeper` | ZooKeeper's client protocol |
//! | `zookeeper::session` | a session over successive connections |
//! | `zookeeper::session::recorded_tests` | a session on the recorded bytes of a server |
//! | `zookeeper::lease` | how long a session is confirmed |
//! | `zookeeper::request` | requests and their answers |
//! | `zookeeper::record` | the records of `zookeeper.jute` |
//! | `zookeeper::wire` | encoding of integers, strings and buffers |
//! | `zookeeper::code` | error codes and operation codes |
//! | `http` | HTTP/1.0 and 1.1 |
//! | `http::client` | sends a request to one address after another |
//! | `http::request` | requests |
//! | `http::reply` | replies |
//! | `http::recorded_tests` | recorded messages at each cut, and malformed ones |
//! | `http::head` | the head of a message |
//! | `http::body` | bodies and their framing |
//! | `http::lines` | lines and header fields |
//! | `http::percent` | percent-encoding and queries |
//! | `http::accept` | whether a client is a browser |
//! | `http::credentials` | access tokens in a request |
//! | `http::date` | the Date header |
//! | `http::malformed` | errors, and the status that answers each |
//!
//! ## Command line, config, plan
//!
//! | module | what it does |
//! | --- | --- |
//! | `cli` | what the four programs have in common |
//! | `cli::zk_flock` | help, options and plan of zk-flock |
//! | `cli::lockex` | of lockex |
//! | `cli::distributex` | of distributex |
//! | `cli::distributexd` | of distributexd |
//! | `cli::options` | the parser, and options of all clients |
//! | `cli::common_tests` | the options common to the clients, on each of them |
//! | `cli::value` | values of options |
//! | `cli::access_tokens` | reads files of access tokens |
//! | `cli::line` | corrects a command line for a hint |
//! | `cli::python_hash` | Python 2.7's hash, which names a lockex lock |
//! | `config` | `/etc/distributed-flock.json` |
//! | `config::text` | encoding and comments of a config |
//! | `config::server` | the lock server's config |
//! | `config::server::access` | its access tokens and networks |
//! | `config::server::ensemble` | its ensemble of ZooKeeper |
//! | `config::node` | a config as a tree with line numbers |
//! | `config::json` | JSON as such a tree |
//! | `config::yaml` | a subset of YAML as such a tree |
//! | `config::yaml::flow` | lists and mappings in brackets |
//! | `config::yaml::scalar` | scalars |
//! | `plan` | all decisions made before the first byte is sent |
//! | `plan::access` | access tokens, their rights, and networks |
//! | `plan::server` | the plan of the lock server |
//! | `plan::names` | names that a lock may have |
//! | `plan::hosts` | connection strings |
//! | `plan::eviction` | the plan of `--break` |
//! | `plan::client_check` | the plan of `--check` |
//! | `plan::notify` | the plan of `--notify` |
//! | `plan::inspection` | the plan of `--status`, and which locks |
//! | `plan::connection` | commands that make connections |
//! | `plan::duration` | times as operators write them |
//! | `plan::outer` | locks of the runs around this one |
//!
//! ## Vocabulary
//!
//! | module | what it does |
//! | --- | --- |
//! | `moment` | a point in time that suspend does not stop |
//! | `signal` | signals and exit statuses |
//! | `transport` | events and outputs of a connection |
//! | `endpoint` | one address of a server, with its name |
//! | `deadlines` | when a command must be dead |
//! | `kill_rounds` | when KILL is repeated, and survivors are reported |
//! | `delivery` | which signals have reached the command already |
//! | `shell` | what a shell would do with a command |
//! | `shell::words` | Python's `shlex.split` |
//! | `printable` | text that must not control the terminal |
//! | `edit_distance` | finds the name that was meant |
//! | `in_file` | a fault with its file and line |
//! | `reason` | the text of an I/O error |
//! | `fact` | `key=value` in log lines |
//!
//! ## For tests
//!
//! | module | what it does |
//! | --- | --- |
//! | `internals` | what integration tests, fuzz targets and the benchmark use |
//! | `testing` | drives a machine as the loops do, for tests |
//! | `testing::driver` | one clock, one peer in memory, and the rules for every machine |
//! | `testing::lock` | locks under the driver |
//! | `testing::oneshot` | one-shot clients on it |
//! | `testing::pool` | pools under the driver |
//! | `testing::script` | servers and clients of a pool, line by line, for all backends |

#[forbid(unsafe_code)]
mod cli;
#[forbid(unsafe_code)]
mod config;
#[forbid(unsafe_code)]
mod deadlines;
#[forbid(unsafe_code)]
mod delivery;
#[forbid(unsafe_code)]
mod edit_distance;
#[forbid(unsafe_code)]
mod endpoint;
#[forbid(unsafe_code)]
mod eviction;
#[forbid(unsafe_code)]
mod fact;
#[forbid(unsafe_code)]
mod guard;
#[forbid(unsafe_code)]
mod http;
#[forbid(unsafe_code)]
mod in_file;
#[doc(hidden)]
pub mod internals;
#[forbid(unsafe_code)]
mod kill_rounds;
mod link;
#[forbid(unsafe_code)]
mod lock;
mod log;
#[forbid(unsafe_code)]
mod moment;
#[forbid(unsafe_code)]
mod notify;
#[forbid(unsafe_code)]
mod oneshot;
#[forbid(unsafe_code)]
mod plan;
#[forbid(unsafe_code)]
mod pool;
mod prepare;
#[forbid(unsafe_code)]
mod printable;
#[forbid(unsafe_code)]
mod probe;
mod program;
mod reason;
mod run;
mod serve;
mod service_manager;
#[forbid(unsafe_code)]
mod shell;
#[forbid(unsafe_code)]
mod signal;
#[forbid(unsafe_code)]
mod status;
#[forbid(unsafe_code)]
mod supervisor;
mod sys;
#[cfg(test)]
#[forbid(unsafe_code)]
mod testing;
#[forbid(unsafe_code)]
mod textfile;
#[forbid(unsafe_code)]
mod transport;
#[forbid(unsafe_code)]
mod zookeeper;

pub use program::main;
