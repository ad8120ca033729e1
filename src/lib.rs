//! `zk-flock` is flock(1) for a cluster: it runs a command while it holds a lock that every host
//! can see. `lockex`, the same executable by another name, does so with a queue; `distributex` asks
//! a lock server that speaks HTTP, and `distributexd` is that server.
//!
//! # The story
//!
//! ```text
//! argv ─► Options ─► + config file, environment ─► Plan ─► prepare ─► run ─► exit code
//!
//! run: lock says Acquired ─► Start command ─► command Ended | lock Lost | signal ─► tree gone ─► minimum hold ─► release ─► Exit
//! ```
//!
//! Start reading at [`run`], the loop, then at [`supervisor`], which decides. Two processes stand
//! over the command: this program keeps the lock; the *guard*, forked just before the command,
//! keeps the command and its process tree, and sees to it that the tree is dead before the lock can
//! belong to anybody else, whatever becomes of us. The server begins at [`serve`], its loop, and
//! [`pool`], which decides.
//!
//! # Rooms, by ring; imports point down
//!
//! 1. Words to plan: [`cli`] (help and options of each program: `zk_flock`; `lockex`, which names
//!    locks by `python_hash`; `distributex`; `distributexd`; what they share: `options`, `value`;
//!    for mistakes `line`), [`config`] (zk-flock's, JSON, `text`; the server's, `yaml` with its
//!    `scalar` and `flow`, or `json`, both a tree of `node`), [`plan`] (what they come to;
//!    `server`, `outer`, `hosts`, `names`, `duration`), [`shell`] (quoting; `words`),
//!    [`edit_distance`], [`in_file`].
//! 2. Pure machines, `(event, now) → action`: [`supervisor`], [`guard`], [`lock`] (the contract;
//!    `lookups` and `repeats`; `file`: `local` and `host_only`; `zookeeper`: a session's lock, with a
//!    `recipe`: `node`, `queue` and `semaphore`, `layout`, `parents`, `queue_entry` and `acl`; `fake`, a
//!    server for their tests; `http`, with its `reply`) on [`zookeeper`] (`wire`, `record`, `code`, `request`, `session`,
//!    `lease`) and [`http`] (`request` and `reply`, of `head`, `lines` and `body`; `client`;
//!    `date`, `percent`, `malformed`); [`moment`], [`deadlines`], [`delivery`], [`endpoint`],
//!    [`reason`], [`transport`], [`kill_rounds`] and [`signal`], their vocabulary. Of the server:
//!    [`pool`] (the contract; `memory`, which has a `pool_state` for each pool, of `holders` and
//!    `waiters`, and one `outbox`; `memcached`, which has a `shared_pool` for each, changed in a
//!    `cas_cycle` by a `list_update`, with its `leases`, `attempts`, `holder_cache` and `expiry`,
//!    and one `client`, which speaks the `protocol`, tested by `fake` and `interleaving_tests`;
//!    `lease`, `invalid_request`, `state`, `status`, `metrics`; for all backends `pools`, `events`
//!    and `reply_delivery`).
//! 3. Effects: `program` (argv to exit code), [`prepare`] (once, before the loop; `resolver`), [`run`]
//!    (the loop; its `setup`, its `guard` and the `guard_channel` to it, `files` in a
//!    `lock_folder`, `witness`, `host_lock`, `names`, `run_id`, `journal`), [`link`] (one
//!    connection), [`log`];
//!    [`serve`] (the loop of the lock server; its `listener`, its `service` to a
//!    `connection_table`, in which each `connection` has its `http_session`; `api`, `setup`,
//!    `state_file`, `memcached`, `server_log`, `server_metrics`).
//! 4. [`sys`]: system calls, and the only unsafe code. Waiting: `poll`, `epoll`, `timer`, `clock`.
//!    Signals: `signals`, `mask`, `disposition`, `inherited`, `entry`. Processes: `process`,
//!    `spawn`, `listen_pid`, `pidfd`, `tree`, `scheduling`, `title`, `daemon`. The rest:
//!    `descriptors`, `file`, `folder`, `socket`, `tcp`, `random`, `host`, and `testing` for their
//!    tests.
//!
//! Beside them, `testing`: a `driver` that runs a machine of ring 2 in tests, and checks the rules
//! that hold for every machine.
//!
//! Rings 1 and 2 know no libc, `sys`, sockets, processes, clock or log; `cli` reads one file, its
//! config.

#[forbid(unsafe_code)]
pub mod cli;
#[forbid(unsafe_code)]
pub mod config;
#[forbid(unsafe_code)]
pub mod deadlines;
#[forbid(unsafe_code)]
pub mod delivery;
#[forbid(unsafe_code)]
pub mod edit_distance;
#[forbid(unsafe_code)]
pub mod endpoint;
#[forbid(unsafe_code)]
pub mod guard;
#[forbid(unsafe_code)]
pub mod http;
#[forbid(unsafe_code)]
pub mod in_file;
#[forbid(unsafe_code)]
pub mod kill_rounds;
pub mod link;
#[forbid(unsafe_code)]
pub mod lock;
pub mod log;
#[forbid(unsafe_code)]
pub mod moment;
#[forbid(unsafe_code)]
pub mod plan;
#[forbid(unsafe_code)]
pub mod pool;
pub mod prepare;
mod program;
pub mod reason;
pub mod run;
pub mod serve;
#[forbid(unsafe_code)]
pub mod shell;
#[forbid(unsafe_code)]
pub mod signal;
#[forbid(unsafe_code)]
pub mod supervisor;
pub mod sys;
#[doc(hidden)]
#[forbid(unsafe_code)]
pub mod testing;
#[forbid(unsafe_code)]
pub mod transport;
#[forbid(unsafe_code)]
pub mod zookeeper;

pub use program::main;
