//! The cookbook's examples work: commands run against real servers, and units and configs pass the
//! checkers of their own programs.

use common::distributexd::Distributexd;
use common::memcached::Memcached;
use common::sandbox::{Sandbox, executable};
use common::zookeeper::ZooKeeper;
use common::{free_port, wait_until};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use zk_flock::internals::cli::{Environment, Request, distributex, lockex, zk_flock as flock};
use zk_flock::internals::config::{Config, server};
use zk_flock::internals::shell::words;

const COOKBOOK: &str = include_str!("../../man/zk-flock-cookbook.7");

const FLOCK_MANUAL: &str = include_str!("../../man/zk-flock.1");

/// The names of the executable.
const PROGRAMS: [&str; 4] = ["zk-flock", "lockex", "distributex", "distributexd"];

/// What the examples are checked as.
const CHECKS: [&str; 17] = [
    "alerts",
    "break",
    "config",
    "cron",
    "ensemble",
    "flock",
    "force",
    "nagios",
    "nginx",
    "pools",
    "script",
    "servers",
    "status",
    "stunnel",
    "timer",
    "transcript",
    "unit",
];

/// The literal blocks of the page, each with the check that the line above it names, or with "".
fn blocks() -> Vec<(&'static str, String)> {
    let mut blocks = Vec::new();
    let (mut before, mut lines) = ("", COOKBOOK.lines());
    while let Some(line) = lines.next() {
        if line.starts_with(".Bd -literal") {
            let text: Vec<_> = lines
                .by_ref()
                .take_while(|line| *line != ".Ed")
                .map(unescaped)
                .collect();
            let check = before.strip_prefix(".\\\" check: ").unwrap_or_default();
            blocks.push((check, text.join("\n") + "\n"));
        }
        before = line;
    }
    blocks
}

/// A line as a reader sees it.
fn unescaped(line: &str) -> String {
    line.replace("\\e", "\\")
        .replace("\\(dq", "\"")
        .replace("\\&", "")
}

/// The examples that are checked in this way.
fn examples(check: &str) -> Vec<String> {
    let found: Vec<_> = blocks()
        .into_iter()
        .filter(|(named, _)| *named == check)
        .map(|(_, text)| text)
        .collect();
    assert!(!found.is_empty(), "no example for {check}");
    found
}

/// Fails, with what to install, if a program is missing.
fn need(program: &str, package: &str) {
    let found = Path::new(program).exists()
        || std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).exists()))
        || Path::new("/usr/sbin").join(program).exists();
    assert!(
        found,
        "{program} is missing: apt-get install {package}, or let tests/all do it"
    );
}

/// Where the examples run: a sandbox, the programs under their names, and a scratch ZooKeeper.
struct Kitchen {
    sandbox: Sandbox,
    servers: String,
}

impl Kitchen {
    fn new() -> Kitchen {
        let sandbox = Sandbox::new();
        fs::create_dir(sandbox.path("bin")).expect("a folder for the programs can be made");
        for name in PROGRAMS {
            symlink(executable(), sandbox.path("bin").join(name)).expect("a link can be made");
        }
        Kitchen {
            sandbox,
            servers: ZooKeeper::shared().address(),
        }
    }

    /// An executable script of this name beside the programs.
    fn script(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.sandbox.path("bin").join(name);
        fs::write(&path, text).expect("a script can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("and be executable");
        path
    }

    /// A shell with this line, which finds programs and servers.
    fn shell(&self, line: &str) -> Command {
        let path = format!(
            "{}:/usr/bin:/bin:/usr/sbin",
            self.sandbox.path("bin").display()
        );
        let mut shell = Command::new("sh");
        shell
            .args(["-c", line])
            .current_dir(&self.sandbox.folder)
            .env("PATH", path)
            .env("ZK_FLOCK_HOSTS", &self.servers)
            .env("ZK_FLOCK_APP_ID", &self.sandbox.id)
            .env("ZKHOSTS", &self.servers)
            .stdin(Stdio::null());
        shell
    }

    fn run(&self, line: &str) -> Output {
        self.shell(line).output().expect("sh can be started")
    }

    /// Holds a lock by this line, whose command is `cat`, until the result is dropped.
    fn hold(&self, line: &str) -> Holder {
        Holder::start(
            self,
            &mut self.shell(&format!("exec {line} -- sh -c 'echo held; exec cat'")),
        )
    }
}

/// A run that holds a lock.
struct Holder(Option<Child>);

impl Holder {
    /// A run whose command prints `held` and ends with its stdin.
    fn start(kitchen: &Kitchen, shell: &mut Command) -> Holder {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("held{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let file = File::create(kitchen.sandbox.path(&name)).expect("a file can be made");
        let child = shell
            .stdin(Stdio::piped())
            .stdout(file)
            .stderr(Stdio::piped())
            .spawn()
            .expect("sh can be started");
        let holder = Holder(Some(child));
        wait_until("the lock to be held", || {
            kitchen.sandbox.read(&name) == "held\n"
        });
        holder
    }

    fn pid(&self) -> u32 {
        self.0.as_ref().expect("it runs").id()
    }

    /// Lets its command end, or waits for an end that something else brings about.
    fn output(mut self, end: bool) -> Output {
        let mut child = self.0.take().expect("it runs");
        let stdin = child.stdin.take();
        if end {
            drop(stdin);
            return child.wait_with_output().expect("it can be waited for");
        }
        let output = child.wait_with_output().expect("it can be waited for");
        drop(stdin);
        output
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            child.stdin = None;
            child.wait().expect("it can be waited for");
        }
    }
}

/// A server of another program. Dropping it kills it.
struct Server(Child);

impl Server {
    fn start(command: &mut Command, port: u16) -> Server {
        let server = Server(command.spawn().expect("the server can be started"));
        wait_until("the server to listen", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().expect("it can be killed");
        self.0.wait().expect("it can be waited for");
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The parser of the program that a line begins with takes the rest of it.
fn assert_parses(line: &str) {
    let mut words = words::split(line.as_ref())
        .expect("quotes are closed")
        .into_iter();
    let program = words.next().expect("a line has a program");
    let program = Path::new(&program).file_name().expect("which has a name");
    let variable = |name: &str| OsString::from(name);
    let environment = Environment {
        current_dir: "/".into(),
        hosts: Some(variable("zk1:2181")),
        app_id: Some(variable("my_app")),
        ..Environment::default()
    };
    let words: Vec<_> = words.collect();
    let request = match program.to_str() {
        Some("zk-flock") => (flock::PROGRAM.request)(words, &environment),
        Some("lockex") => (lockex::PROGRAM.request)(words, &environment),
        Some("distributex") => (distributex::PROGRAM.request)(words, &environment),
        other => panic!("{other:?} in {line}"),
    };
    let fits = match &request {
        Ok(Request::Run(_)) => true,
        Ok(Request::Break(_)) => line.contains("--break"),
        _ => false,
    };
    assert!(fits, "{line}: {request:?}");
}

#[test]
fn each_example_names_its_check() {
    let named: BTreeSet<_> = blocks().iter().map(|(check, _)| *check).collect();
    assert_eq!(named, BTreeSet::from(CHECKS));
}

#[test]
fn lines_of_a_crontab_have_a_user_and_a_command_that_parses() {
    for line in examples("cron").iter().flat_map(|text| text.lines()) {
        let fields: Vec<_> = line.splitn(7, ' ').collect();
        assert_eq!(fields.len(), 7, "{line}");
        assert!(!line.contains('%'), "cron ends the command there: {line}");
        assert_parses(fields[6]);
    }
}

#[test]
fn units_pass_systemd_analyze() {
    need("systemd-analyze", "systemd");
    let kitchen = Kitchen::new();
    let bin = format!("ExecStart={}/", kitchen.sandbox.path("bin").display());
    for (number, unit) in examples("unit").iter().enumerate() {
        let start = unit
            .lines()
            .find_map(|line| line.strip_prefix("ExecStart="))
            .expect("a unit starts something");
        assert_parses(start);
        let unit = unit.replace("ExecStart=/usr/bin/", &bin);
        let path = kitchen.sandbox.path(&format!("unit{number}.service"));
        fs::write(&path, &unit).expect("a unit can be written");
        let verify = kitchen.run(&format!("systemd-analyze verify {} 2>&1", path.display()));
        assert!(verify.status.success(), "{verify:?}");
        assert_eq!(text(&verify.stdout), "", "{unit}");
        // For the timer, which starts a service of its own name.
        fs::write(kitchen.sandbox.path("report.service"), &unit).expect("a unit can be written");
    }
    let timer = kitchen.sandbox.path("report.timer");
    fs::write(&timer, examples("timer").concat()).expect("a unit can be written");
    let verify = kitchen.run(&format!("systemd-analyze verify {} 2>&1", timer.display()));
    assert_eq!(
        (verify.status.success(), text(&verify.stdout)),
        (true, String::new())
    );
}

#[test]
fn the_check_of_a_lock_has_the_exit_codes_of_nagios() {
    let kitchen = Kitchen::new();
    kitchen.script("check_lock", &examples("nagios").concat());
    let check = |line: &str| {
        let run = kitchen.run(line);
        (run.status.code(), text(&run.stdout))
    };
    let free = "OK: report is free\n".to_owned();
    assert_eq!(check("check_lock report 60"), (Some(0), free));
    let _held = kitchen.hold("zk-flock -l 0 report");
    let (code, line) = check("check_lock report 60");
    assert!(
        code == Some(0) && line.starts_with("OK: report is held for "),
        "{line}"
    );
    let (code, line) = check("check_lock report -1");
    assert!(
        code == Some(1) && line.starts_with("WARNING: report is held for "),
        "{line}"
    );
    let (code, line) = check("ZK_FLOCK_HOSTS=127.0.0.1:1 ZK_FLOCK_TIMEOUT=1 check_lock report 60");
    assert!(
        code == Some(3) && line.starts_with("UNKNOWN: zk-flock: "),
        "{line}"
    );
}

#[test]
fn a_script_takes_its_own_lock_once() {
    let kitchen = Kitchen::new();
    for script in examples("script") {
        let path = kitchen.script("my nightly", &script);
        let node = format!("/{}/nightly", kitchen.sandbox.id);
        for (before, arguments) in [
            ("", "a 'b c'"),
            ("", ""),
            ("zk-flock -l 0 outer -- ", "a 'b c'"),
        ] {
            let run = kitchen.run(&format!("{before}'{}' {arguments}", path.display()));
            // zk-flock splits the one word after `--`: with arguments there are two.
            assert_eq!(
                (text(&run.stdout), run.status.code()),
                (
                    format!("holding {node}: {}\n", arguments.replace('\'', "")),
                    Some(0)
                ),
                "{run:?}"
            );
        }
    }
}

#[test]
fn a_lock_that_is_stuck_is_shown_and_taken_away() {
    let kitchen = Kitchen::new();
    let pools = "pools:\n  - name: backup\n    expire: 3\n";
    let server = Distributexd::start(&kitchen.sandbox, pools);
    let address = format!("-H 127.0.0.1 -p {}", server.port);
    let own_name = "--no-local-lock --as db1.example.com";
    let job = "echo held; exec cat";
    let slot = format!("exec distributex {address} -r backup {own_name} '{job}'");
    let holders = [
        kitchen.hold("zk-flock -l 600 report"),
        kitchen.hold("lockex --no-shell -i redis"),
        Holder::start(&kitchen, &mut kitchen.shell(&slot)),
    ];
    let host = text(&kitchen.run("uname -n").stdout);
    let local = |pid: u32| format!("{}:{pid}", host.trim());
    let names = [
        local(holders[0].pid()),
        local(holders[1].pid()),
        "db1.example.com".to_owned(),
    ];
    let results = |check| {
        let lines = examples(check).concat();
        let lines = lines.replace("-H dx.example.com", &address);
        let results: Vec<_> = lines.lines().map(|line| kitchen.run(line)).collect();
        assert_eq!(results.len(), 3, "{check}");
        results
    };
    for (shown, name) in results("status").iter().zip(&names) {
        assert_eq!(shown.status.code(), Some(0), "{shown:?}");
        assert!(text(&shown.stdout).contains(name), "{name}: {shown:?}");
    }
    for checked in results("servers") {
        assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    }
    for (evicted, name) in results("break").iter().zip(&names) {
        assert_eq!(evicted.status.code(), Some(0), "{evicted:?}");
        let line = text(&evicted.stdout);
        assert!(
            line.starts_with(&format!("evicted {name} (token ")),
            "{line}"
        );
    }
    for holder in holders {
        let end = holder.output(false);
        assert_eq!(end.status.code(), Some(1), "{end:?}");
        assert!(text(&end.stderr).contains(": revoked "), "{end:?}");
    }
    for free in results("break") {
        assert_eq!(free.status.code(), Some(3), "{free:?}");
    }
    for line in examples("force") {
        assert_parses(&line);
    }
}

#[test]
fn a_lock_server_has_the_metrics_to_alert_on() {
    need("curl", "curl");
    let kitchen = Kitchen::new();
    let config = "networks: 127.0.0.0/8\npools:\n  - name: backup\n";
    let server = Distributexd::start(&kitchen.sandbox, config);
    let metrics = kitchen.run(&format!("curl -s http://127.0.0.1:{}/metrics", server.port));
    let metrics = text(&metrics.stdout);
    let named: Vec<_> = COOKBOOK
        .lines()
        .filter_map(|line| line.strip_prefix(".It distributexd_")?.split(' ').next())
        .collect();
    assert_eq!(named.len(), 7);
    let rules = examples("alerts").concat();
    let words = rules.split(|c: char| !c.is_alphanumeric() && c != '_');
    let (of_runs, others): (Vec<_>, Vec<_>) = words
        .filter(|word| word.contains('_'))
        .partition(|word| word.starts_with("zk_flock_"));
    for name in of_runs {
        assert!(FLOCK_MANUAL.contains(name), "{name}");
    }
    let of_server = others
        .into_iter()
        .filter_map(|word| word.strip_prefix("distributexd_"));
    for name in named.into_iter().chain(of_server) {
        assert!(
            metrics.contains(&format!("\n# HELP distributexd_{name} ")),
            "{name} in {metrics}"
        );
    }
}

/// A key, and a certificate for these names that it signed itself.
fn certificate(kitchen: &Kitchen, names: &[&str]) {
    need("openssl", "openssl");
    let names: Vec<_> = names.iter().map(|name| format!("DNS:{name}")).collect();
    let made = kitchen.run(&format!(
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=test -addext subjectAltName={} 2>&1",
        names.join(",")
    ));
    assert!(made.status.success(), "{made:?}");
}

#[test]
fn zk_flock_runs_through_stunnel_only_if_the_certificate_has_the_right_name() {
    need("stunnel", "stunnel4");
    let example = examples("stunnel").concat();
    let config = examples("config").concat();
    for (names, code) in [
        (["zk1.example.com", "zk2.example.com"], 0),
        (["zk3.example.com", "zk4.example.com"], 1),
    ] {
        let kitchen = Kitchen::new();
        certificate(&kitchen, &names);
        let [server, first, second] = [free_port(), free_port(), free_port()];
        let pem = kitchen.sandbox.path("cert.pem");
        let around = "foreground = yes\npid =\nsyslog = no\n";
        let behind = format!(
            "{around}[zk]\naccept = 127.0.0.1:{server}\nconnect = {}\ncert = {}\nkey = {}\n",
            kitchen.servers,
            pem.display(),
            kitchen.sandbox.path("key.pem").display()
        );
        let local = |text: &str| {
            text.replace("127.0.0.1:2181", &format!("127.0.0.1:{first}"))
                .replace("127.0.0.1:2182", &format!("127.0.0.1:{second}"))
        };
        let before = local(&example)
            .replace(
                "/etc/ssl/certs/ca-certificates.crt",
                &pem.display().to_string(),
            )
            .replace("zk1.example.com:2281", &format!("127.0.0.1:{server}"))
            .replace("zk2.example.com:2281", &format!("127.0.0.1:{server}"));
        let start = |name: &str, text: String, port| {
            let path = kitchen.sandbox.path(name);
            fs::write(&path, text).expect("a config can be written");
            let mut shell = kitchen.shell(&format!("exec stunnel {} 2>{name}.log", path.display()));
            Server::start(&mut shell, port)
        };
        let _behind = start("behind.conf", behind, server);
        let _before = start("before.conf", format!("{around}{before}"), second);
        let shown = config.replace("my_app", &kitchen.sandbox.id);
        let parsed = Config::parse(shown.as_bytes(), Path::new("shown")).expect("it is right");
        assert_eq!(parsed.warnings, []);
        fs::write(kitchen.sandbox.path("flock.json"), local(&shown))
            .expect("a config can be written");
        let run = kitchen
            .shell("zk-flock -c flock.json --timeout 4 -l 0 demo 'echo done'")
            .env_remove("ZK_FLOCK_HOSTS")
            .output()
            .expect("sh can be started");
        let logs = kitchen.sandbox.read("before.conf.log");
        assert_eq!(run.status.code(), Some(code), "{run:?} {logs}");
        assert_eq!(text(&run.stdout), if code == 0 { "done\n" } else { "" });
    }
}

#[test]
fn lock_servers_on_zookeeper_are_one_to_a_client() {
    let kitchen = Kitchen::new();
    let config = examples("ensemble").concat();
    let parsed = server::Config::parse(config.as_bytes(), Path::new("shown")).expect("it is right");
    assert_eq!(parsed.warnings, Vec::<String>::new());
    let hosts = "zk1.example.com:2181,zk2.example.com:2181,zk3.example.com:2181";
    let path = format!("path: /{}\n", kitchen.sandbox.id);
    let config = config.replace(hosts, &kitchen.servers) + &path;
    let first = Distributexd::start(&kitchen.sandbox, &config);
    let second = Distributexd::start(&kitchen.sandbox, &config);
    assert_eq!(first.call("get", "a", "backup"), "YES");
    assert_eq!(second.call("get", "b", "backup"), "NO");
    assert_eq!(second.call("release", "a", "backup"), "OK");
    assert_eq!(first.call("get", "b", "backup"), "YES");
}

#[test]
fn two_lock_servers_behind_nginx_are_one_to_a_client() {
    need("nginx", "nginx-light");
    let kitchen = Kitchen::new();
    let memcached = Memcached::start(&kitchen.sandbox);
    let pools = examples("pools").concat();
    let parsed = server::Config::parse(pools.as_bytes(), Path::new("shown")).expect("it is right");
    assert_eq!(parsed.warnings, Vec::<String>::new());
    let pools = pools
        .replace(
            "memcachehost: mc.example.com",
            &format!("memcachehost: 127.0.0.1\nmemcacheport: {}", memcached.port),
        )
        .replace("expire: 60", "expire: 3");
    let first = Distributexd::start(&kitchen.sandbox, &pools);
    let second = Distributexd::start(&kitchen.sandbox, &pools);

    let [site, two] = examples("nginx").try_into().expect("two examples");
    let two = two
        .replace("dx1.example.com:9889", &format!("127.0.0.1:{}", first.port))
        .replace(
            "dx2.example.com:9889",
            &format!("127.0.0.1:{}", second.port),
        );
    let one = "upstream distributexd {\n    server 127.0.0.1:9889;\n}\n";
    assert!(site.starts_with(one), "{site}");
    let port = free_port();
    let site = site
        .replace("listen 9890;", &format!("listen 127.0.0.1:{port};"))
        .replace(one, "");
    let folder = kitchen.sandbox.folder.display().to_string();
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {folder}/{name};\n"))
        .concat();
    let mut tested = Vec::new();
    for upstream in [one, &two] {
        let config = format!(
            "pid {folder}/nginx.pid;\nerror_log {folder}/error.log;\ndaemon off;\nevents {{}}\nhttp {{\naccess_log off;\n{paths}{upstream}{site}}}\n"
        );
        fs::write(kitchen.sandbox.path("nginx.conf"), config).expect("a config can be written");
        let test = kitchen.run(&format!("nginx -t -c {folder}/nginx.conf 2>&1"));
        tested.push((test.status.success(), text(&test.stdout)));
    }
    assert!(tested.iter().all(|(right, _)| *right), "{tested:?}");

    // In the foreground with one process, so that killing it leaves none behind.
    let _nginx = Server::start(
        &mut kitchen.shell(&format!(
            "exec nginx -c {folder}/nginx.conf -g 'master_process off;'"
        )),
        port,
    );
    let client = |host: &str, command: &str| {
        kitchen.shell(&format!(
            "exec distributex -H 127.0.0.1 -p {port} -r backup --no-local-lock --as {host} '{command}'"
        ))
    };
    let holder = Holder::start(
        &kitchen,
        &mut client("db1.example.com", "echo held; exec cat"),
    );
    drop(first);
    common::let_last(common::SECOND * 4); // longer than the lease, so it was renewed at the other one
    let held = holder.output(true);
    assert_eq!(
        (held.status.code(), text(&held.stderr)),
        (Some(0), String::new())
    );
    let next = client("db2.example.com", "echo next").output();
    assert_eq!(text(&next.expect("sh can be started").stdout), "next\n");
}

#[test]
fn each_line_of_flock_does_what_the_line_of_zk_flock_below_it_does() {
    need("flock", "util-linux");
    let kitchen = Kitchen::new();
    kitchen.script("report", "#!/bin/sh\necho report \"$@\"\n");
    kitchen.script("mail", "#!/bin/sh\ncat\necho mailed to \"$@\"\n");
    let file = kitchen.sandbox.path("report.lock");
    let lines = examples("flock").concat();
    let lines: Vec<_> = lines
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| {
            line.replace("/run/lock/report", &file.display().to_string())
                .replace("-w 60", "-w 0.3")
        })
        .collect();
    assert_eq!(lines.len(), 6);
    let result = |line: &str| {
        let run = kitchen.run(line);
        (run.status.code(), text(&run.stdout), text(&run.stderr))
    };
    for pair in lines.chunks(2) {
        let free = result(&pair[0]);
        assert!(free.1.starts_with("report"), "{free:?}");
        assert_eq!(result(&pair[1]), free, "{pair:?}");
    }
    let _held = [
        kitchen.hold("zk-flock -l 0 report"),
        kitchen.hold(&format!(
            "sh -c 'shift; exec flock {} \"$@\"' sh",
            file.display()
        )),
    ];
    for (pair, code) in lines.chunks(2).zip([1, 9]) {
        let busy = result(&pair[0]);
        assert_eq!(busy, (Some(code), String::new(), String::new()));
        assert_eq!(result(&pair[1]), busy, "{pair:?}");
    }
}

#[test]
fn commands_are_parsed_as_the_transcript_shows() {
    let kitchen = Kitchen::new();
    for transcript in examples("transcript") {
        let mut lines = transcript.lines().peekable();
        while let Some(line) = lines.next() {
            let command = line.strip_prefix("$ ").expect("a command comes first");
            assert_parses(command);
            let mut expected = String::new();
            while let Some(line) = lines.next_if(|line| !line.starts_with("$ ")) {
                expected += line;
                expected.push('\n');
            }
            let run = kitchen.run(&command.replace("demo", &kitchen.sandbox.id));
            assert_eq!(text(&run.stdout), expected, "{command}: {run:?}");
        }
    }
}
