//! A real ensemble of three servers, each in a network namespace of its own, with one link to the
//! clients and one to its peers that a test may cut. The namespaces have no names, so the kernel
//! removes them when the test ends, however it ends.

#![allow(unsafe_code, reason = "unshare(2) and setns(2)")]
#![allow(
    clippy::unused_self,
    reason = "which ensemble's links `ip` works on, the namespace of the thread says; an ensemble is there, all the same"
)]

use super::zookeeper::java;
use super::{process, scratch, wait_for, wait_until};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Servers of an ensemble, by index.
pub const SERVERS: [usize; 3] = [0, 1, 2];

/// Servers need a session timeout of at least two of these.
pub const TICK: Duration = Duration::from_secs(2);

/// Holds a namespace and runs the server in it on demand; both end with the pipe on stdin.
const KEEPER: &str = r#"
trap '' INT QUIT HUP TERM
echo ready
while read -r word; do
    case $word in
    start) "$@" </dev/null >>server.log 2>&1 & echo $! ;;
    kill) kill -9 $!; wait; echo gone ;;
    esac
done
[ -n "$!" ] && kill -9 $! 2>/dev/null
wait
rm -rf "$PWD"
"#;

/// Three servers. The thread that starts them, and all that it starts from then on, is in the
/// namespace of their clients.
pub struct Ensemble {
    members: Vec<Member>,
    /// The namespace that the thread was in before.
    outside: File,
    /// One at a time: with more, a small machine has stalls that look like faults.
    _turn: MutexGuard<'static, ()>,
}

/// One server, and the shell that keeps its namespace.
struct Member {
    shell: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    folder: PathBuf,
    server: Option<i32>,
}

impl Ensemble {
    /// Starts it and waits until it serves.
    #[track_caller]
    pub fn start() -> Ensemble {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let outside = File::open("/proc/thread-self/ns/net").expect("/proc is mounted");
        // SAFETY: unshare(2) takes an integer and touches no memory.
        let made = unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0;
        assert!(
            made,
            "this test makes network namespaces, which needs root and a kernel that has them: {}",
            std::io::Error::last_os_error()
        );
        ip("link set lo up");
        for (bridge, address) in [("clients", "10.0.1.254/24"), ("quorum", "10.0.2.254/24")] {
            ip(&format!("link add {bridge} type bridge"));
            ip(&format!("addr add {address} dev {bridge}"));
            ip(&format!("link set {bridge} up"));
        }
        let mut ensemble = Ensemble {
            members: SERVERS.map(Member::new).into(),
            outside,
            _turn: turn,
        };
        for server in SERVERS {
            ensemble.start_server(server);
        }
        ensemble.wait_until_all_serve();
        ensemble
    }

    /// The address of a server for clients.
    pub fn address(&self, server: usize) -> String {
        format!("{}:2181", host(Side::Clients, server))
    }

    /// The addresses of all servers for clients.
    pub fn addresses(&self) -> Vec<String> {
        SERVERS.map(|server| self.address(server)).into()
    }

    /// Waits until a majority names a leader, and returns it.
    pub fn leader(&self) -> usize {
        wait_for("a leader", || {
            SERVERS
                .into_iter()
                .find(|&server| self.mode(server).as_deref() == Some("leader"))
        })
    }

    /// A follower.
    pub fn follower(&self) -> usize {
        wait_for("a follower", || {
            SERVERS
                .into_iter()
                .find(|&server| self.mode(server).as_deref() == Some("follower"))
        })
    }

    /// `leader` or `follower`; `None` if it does not serve.
    pub fn mode(&self, server: usize) -> Option<String> {
        let mut answer = String::new();
        let mut stream = TcpStream::connect_timeout(
            &self.address(server).parse().expect("an address"),
            Duration::from_millis(200),
        )
        .ok()?;
        stream
            .set_read_timeout(Some(Duration::from_millis(200)))
            .ok()?;
        stream.write_all(b"srvr").ok()?;
        stream.shutdown(Shutdown::Write).ok()?;
        stream.read_to_string(&mut answer).ok()?;
        answer
            .lines()
            .find_map(|line| line.strip_prefix("Mode: "))
            .map(str::to_owned)
    }

    /// Waits until one of them leads and all others follow.
    #[track_caller]
    pub fn wait_until_all_serve(&self) {
        wait_until("one leader and its followers", || {
            let mut modes = SERVERS.map(|server| self.mode(server).unwrap_or_default());
            modes.sort_unstable();
            modes == ["follower", "follower", "leader"]
        });
    }

    /// What a server has logged.
    pub fn log(&self, server: usize) -> String {
        fs::read_to_string(self.members[server].folder.join("server.log")).unwrap_or_default()
    }

    /// Kills a server.
    pub fn kill(&mut self, server: usize) {
        if self.members[server].server.take().is_some() {
            assert_eq!(self.members[server].ask("kill"), "gone");
        }
    }

    /// Starts a server that was killed, with the data that it wrote, and does not wait until it
    /// serves.
    pub fn start_server(&mut self, server: usize) {
        let pid = self.members[server].ask("start");
        self.members[server].server = Some(pid.parse().expect("the keeper prints a pid"));
    }

    /// Stops a server with SIGSTOP: connections stay open, no request is answered.
    pub fn freeze(&self, server: usize) {
        let pid = self.members[server].server.expect("the server runs");
        assert!(process::kill(pid, libc::SIGSTOP));
        wait_until("the server is stopped", || process::state(pid) == Some('T'));
    }

    /// Continues it.
    pub fn thaw(&self, server: usize) {
        if let Some(pid) = self.members[server].server {
            process::kill(pid, libc::SIGCONT);
        }
    }

    /// Cuts a server off from its peers; its clients still reach it. Packets are dropped,
    /// without an error for either side.
    pub fn cut_from_peers(&self, server: usize) {
        ip(&format!("link set q{server} down"));
    }

    /// Cuts a leader off from its peers, and makes them elect another at once.
    pub fn depose(&self, leader: usize) {
        self.cut_from_peers(leader);
        for peer in SERVERS.into_iter().filter(|&peer| peer != leader) {
            self.members[peer].run(&["ss", "--kill", "--tcp", "dst", &host(Side::Quorum, leader)]);
        }
    }

    /// Cuts a server off from its clients.
    pub fn cut_from_clients(&self, server: usize) {
        ip(&format!("link set c{server} down"));
    }

    /// Restores both links of a server.
    pub fn mend(&self, server: usize) {
        ip(&format!("link set q{server} up"));
        ip(&format!("link set c{server} up"));
    }

    /// Undoes all faults, and waits until all servers serve.
    #[track_caller]
    pub fn recover(&mut self) {
        for server in SERVERS {
            self.mend(server);
            self.thaw(server);
            if self.members[server].server.is_none() {
                self.start_server(server);
            }
        }
        self.wait_until_all_serve();
    }
}

impl Drop for Ensemble {
    fn drop(&mut self) {
        self.members.clear();
        // SAFETY: setns(2) takes two integers and touches no memory.
        let back = unsafe { libc::setns(self.outside.as_raw_fd(), libc::CLONE_NEWNET) } == 0;
        assert!(
            back || std::thread::panicking(),
            "cannot go back: {}",
            std::io::Error::last_os_error()
        );
    }
}

impl Member {
    /// A namespace with its two links, no server yet. To be called in the namespace of the clients.
    fn new(number: usize) -> Member {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let unique = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = scratch().join(format!("ensemble-{}-{unique}", std::process::id()));
        fs::create_dir(&folder).expect("a folder for the server can be made");
        fs::write(folder.join("zoo.cfg"), config(number, &folder))
            .expect("its config can be written");
        fs::write(folder.join("myid"), (number + 1).to_string())
            .expect("its number can be written");
        // Otherwise an election waits for a server that is cut off, and the queue of killed clients
        // stays for a minute.
        let quick = [
            "-Dzookeeper.cnxTimeout=500",
            "-Dznode.container.checkIntervalMs=1000",
        ];
        let server = [
            "org.apache.zookeeper.server.quorum.QuorumPeerMain",
            "zoo.cfg",
        ];
        let mut shell = Command::new("unshare")
            .args(["--net", "sh", "-c", KEEPER, "keeper"])
            .args([&java()[..], &quick, &server].concat())
            .current_dir(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare can be started");
        let orders = shell.stdin.take();
        let answers = BufReader::new(shell.stdout.take().expect("stdout is a pipe"));
        let mut member = Member {
            shell,
            orders,
            answers,
            folder,
            server: None,
        };
        assert_eq!(member.answer(), "ready");
        member.link(
            "clients",
            &format!("c{number}"),
            &host(Side::Clients, number),
        );
        member.link("quorum", &format!("q{number}"), &host(Side::Quorum, number));
        member.run(&["ip", "link", "set", "lo", "up"]);
        member
    }

    /// Makes a link between a bridge of the test and the namespace.
    fn link(&self, bridge: &str, name: &str, address: &str) {
        ip(&format!(
            "link add {name} type veth peer name {bridge} netns {}",
            self.shell.id()
        ));
        ip(&format!("link set {name} master {bridge} up"));
        self.run(&["ip", "addr", "add", &format!("{address}/24"), "dev", bridge]);
        self.run(&["ip", "link", "set", bridge, "up"]);
    }

    /// Runs a command in its namespace.
    fn run(&self, words: &[&str]) {
        run(&[
            &[
                "nsenter",
                &format!("--net=/proc/{}/ns/net", self.shell.id()),
            ],
            words,
        ]
        .concat());
    }

    fn ask(&mut self, order: &str) -> String {
        let orders = self.orders.as_mut().expect("it is there until the end");
        orders
            .write_all(format!("{order}\n").as_bytes())
            .expect("the keeper reads");
        self.answer()
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers
            .read_line(&mut line)
            .expect("the keeper prints a line");
        line.trim().to_owned()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.orders = None;
        self.shell.wait().expect("the keeper ends");
    }
}

/// The other end of a link.
#[derive(Clone, Copy)]
enum Side {
    Clients = 1,
    Quorum = 2,
}

fn host(side: Side, server: usize) -> String {
    format!("10.0.{}.{}", side as u8, server + 1)
}

fn config(number: usize, folder: &Path) -> String {
    let mut text = format!(
        "tickTime={}\ninitLimit=10\nsyncLimit=5\nmaxClientCnxns=0\nadmin.enableServer=false\n4lw.commands.whitelist=*\n\
         clientPortAddress={}\nclientPort=2181\ndataDir={}\n",
        TICK.as_millis(),
        host(Side::Clients, number),
        folder.display()
    );
    for peer in SERVERS {
        writeln!(
            text,
            "server.{}={}:2888:3888",
            peer + 1,
            host(Side::Quorum, peer)
        )
        .expect("a string takes text");
    }
    text
}

fn ip(words: &str) {
    run(&[&["ip"], &words.split(' ').collect::<Vec<_>>()[..]].concat());
}

#[track_caller]
fn run(words: &[&str]) {
    let output = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .output()
        .expect("it can be started");
    assert!(
        output.status.success(),
        "{words:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
