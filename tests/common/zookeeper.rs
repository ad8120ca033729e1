//! A real ZooKeeper of one server: Debian's jar on a free loopback port, killed when the test
//! process ends.

use super::{free_port, process, scratch, wait_for, wait_until};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Its manifest names the jars it needs.
const JAR: &str = "/usr/share/java/zookeeper.jar";

/// Runs the server in its folder, prints its pid, and kills it when this process ends, however it
/// ends: then the pipe on stdin does too. The folder is removed too, unless it read the word `keep`
/// first. `PR_SET_PDEATHSIG` is no way: it fires when the *thread* that forked ends, and each test
/// has a thread of its own.
const KEEPER: &str = r#"
trap '' INT QUIT HUP TERM
"$@" </dev/null >>server.log 2>&1 &
echo $!
read -r word
kill -9 $!
wait
[ "$word" = keep ] || rm -rf "$PWD"
"#;

/// Keys of a test: two authorities, a server's certificate for localhost, and a
/// client's.
const KEYS: &str = r#"
set -e
authority() {
    openssl req -x509 -newkey rsa:2048 -nodes -keyout $1.key -out $1.pem -days 2 -subj "/CN=$1"
}
certificate() { # name, alternative name, days
    openssl req -newkey rsa:2048 -nodes -keyout $1.key -out $1.csr -subj "/CN=$1"
    echo "subjectAltName=$2" >$1.ext
    openssl x509 -req -in $1.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days $3 -extfile $1.ext -out $1.crt
    cat $1.crt $1.key >$1.pem
    chmod 600 $1.key $1.pem
}
authority ca
authority other
certificate server DNS:localhost,IP:127.0.0.1 2
certificate me DNS:me 2
"#;

/// A server. Dropping it kills it.
pub struct ZooKeeper {
    /// Client port on 127.0.0.1.
    pub port: u16,
    folder: PathBuf,
    property: &'static str,
    keeper: Option<Keeper>,
}

/// The shell above a server.
struct Keeper {
    shell: Child,
    server: i32,
}

impl ZooKeeper {
    /// The one that all tests of a crate share.
    pub fn shared() -> &'static ZooKeeper {
        static SHARED: OnceLock<ZooKeeper> = OnceLock::new();
        SHARED.get_or_init(ZooKeeper::start)
    }

    /// Starts another, for a test that breaks it.
    pub fn start() -> ZooKeeper {
        ZooKeeper::start_with("")
    }

    /// The same with a Java property.
    pub fn start_with(property: &'static str) -> ZooKeeper {
        ZooKeeper::start_configured(property, "")
    }

    /// The same with these lines in its config.
    pub fn start_configured(property: &'static str, lines: &str) -> ZooKeeper {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        assert!(
            Path::new(JAR).exists(),
            "{JAR} is missing: apt-get install zookeeper, or let tests/all do it"
        );
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = scratch().join(format!("zookeeper-{}-{number}", std::process::id()));
        fs::create_dir(&folder).expect("a folder for the server can be made");
        let port = free_port();
        fs::write(folder.join("zoo.cfg"), config(port, &folder) + lines)
            .expect("its config can be written");
        let keeper = Some(Keeper::start(&folder, property));
        let server = ZooKeeper {
            port,
            folder,
            property,
            keeper,
        };
        server.wait_until_it_serves();
        server
    }

    /// Starts one with a port for TLS, which requires client certificates, and returns that port's
    /// address too. The folder gets the keys: the authorities ca.pem and other.pem, and the client's
    /// me.pem.
    pub fn start_secure(folder: &Path) -> (ZooKeeper, String) {
        let made = Command::new("sh")
            .args(["-c", KEYS])
            .current_dir(folder)
            .stderr(Stdio::null())
            .status();
        assert!(made.expect("sh can be started").success());
        let stores = format!(
            "-cp {1}/zookeeper.jar:{1}/netty-codec.jar:{1}/netty-handler.jar:{1}/netty-resolver.jar:{1}/netty-transport-native-unix-common.jar \
             -Dzookeeper.serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory \
             -Dzookeeper.ssl.keyStore.type=PEM -Dzookeeper.ssl.trustStore.type=PEM \
             -Dzookeeper.ssl.keyStore.location={0}/server.pem -Dzookeeper.ssl.trustStore.location={0}/ca.pem",
            folder.display(),
            "/usr/share/java",
        );
        let port = free_port();
        let lines = format!("secureClientPortAddress=127.0.0.1\nsecureClientPort={port}\n");
        let server = ZooKeeper::start_configured(Box::leak(stores.into_boxed_str()), &lines);
        (server, format!("127.0.0.1:{port}"))
    }

    /// Its address, as clients take it.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Stops it with SIGSTOP: connections stay open, no request is answered.
    pub fn freeze(&self) {
        assert!(process::kill(self.pid(), libc::SIGSTOP));
        wait_until("the server is stopped", || {
            process::state(self.pid()) == Some('T')
        });
    }

    /// Continues it.
    pub fn thaw(&self) {
        assert!(process::kill(self.pid(), libc::SIGCONT));
    }

    /// Kills it and starts it again on the same port, with its data.
    pub fn restart(&mut self) {
        self.kill();
        self.keeper = Some(Keeper::start(&self.folder, self.property));
        self.wait_until_it_serves();
    }

    /// Kills it and starts it again on the same port, without its data.
    pub fn restart_wiped(&mut self) {
        self.kill();
        fs::remove_dir_all(self.folder.join("version-2")).expect("its data can be removed");
        self.keeper = Some(Keeper::start(&self.folder, self.property));
        self.wait_until_it_serves();
    }

    /// Kills it. Its port refuses connections until [`ZooKeeper::restart`].
    pub fn kill(&mut self) {
        self.keeper.take().into_iter().for_each(Keeper::kill_server);
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        self.keeper.as_ref().expect("the server runs").server
    }

    /// The answer to a command of four letters.
    pub fn ask(&self, command: &str) -> Option<String> {
        let mut answer = String::new();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream
            .set_read_timeout(Some(Duration::from_millis(200)))
            .ok()?; // a server that is still starting accepts and sends nothing
        stream.write_all(command.as_bytes()).ok()?;
        stream.shutdown(Shutdown::Write).ok()?;
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// How many packets it has received and sent so far. The question is one of them.
    pub fn packets(&self) -> usize {
        self.number("zk_packets_received") + self.number("zk_packets_sent")
    }

    /// How many watches its clients have set that have not fired, without those for requests to
    /// release a lock: a holder sets one with its first heartbeat.
    pub fn watches(&self) -> usize {
        let all = self.number("zk_watch_count");
        let of_data = wait_for("the server's watches", || self.ask("wchp"));
        let mut requests = 0;
        let mut is_request = false;
        for line in of_data.lines() {
            match line.strip_prefix('\t') {
                Some(_) => requests += usize::from(is_request),
                None => is_request = line.contains("/.break/"),
            }
        }
        all - requests
    }

    fn number(&self, key: &str) -> usize {
        let numbers = wait_for("the server's figures", || self.ask("mntr"));
        numbers
            .lines()
            .find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
            .unwrap_or_else(|| panic!("{key} in {numbers}"))
    }

    /// Waits until the server of this folder answers, and not another that bound the port first.
    fn wait_until_it_serves(&self) {
        let folder = self.folder.to_str().expect("paths of tests are text");
        wait_for("ZooKeeper to serve", || {
            let log = || fs::read_to_string(self.folder.join("server.log")).unwrap_or_default();
            assert!(process::alive(self.pid()), "ZooKeeper has ended: {}", log());
            let ours = self.ask("conf")?.contains(folder);
            (ours && self.ask("srvr")?.contains("Mode: ")).then_some(())
        });
    }
}

impl Keeper {
    fn start(folder: &Path, property: &str) -> Keeper {
        let mut shell = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .args(java())
            .args(property.split_whitespace())
            .args(["org.apache.zookeeper.server.ZooKeeperServerMain", "zoo.cfg"])
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh can be started");
        let mut pid = String::new();
        BufReader::new(shell.stdout.take().expect("stdout is a pipe"))
            .read_line(&mut pid)
            .expect("the keeper prints a line");
        Keeper {
            shell,
            server: pid.trim().parse().expect("and it is a pid"),
        }
    }

    /// Kills the server, but keeps its folder.
    fn kill_server(mut self) {
        let stdin = self.shell.stdin.as_mut().expect("stdin is a pipe");
        stdin.write_all(b"keep\n").expect("the keeper reads");
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shell.stdin = None;
        self.shell.wait().expect("the keeper ends");
    }
}

/// The command line for a class of the server: little memory, and no fsync, which only a power cut
/// needs.
pub(super) fn java() -> [&'static str; 8] {
    let quick = ["-Dzookeeper.forceSync=no", "-Dzookeeper.preAllocSize=256"];
    [
        "java",
        "-Xmx64m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        quick[0],
        quick[1],
        "-cp",
        JAR,
    ]
}

/// Ticks are short, so that a session of a second is possible and expires soon after it; long
/// sessions are allowed too.
fn config(port: u16, folder: &Path) -> String {
    format!(
        "tickTime=200\nminSessionTimeout=400\nmaxSessionTimeout=120000\nmaxClientCnxns=0\nadmin.enableServer=false\n4lw.commands.whitelist=*\n\
         clientPortAddress=127.0.0.1\nclientPort={port}\ndataDir={}\n",
        folder.display()
    )
}
