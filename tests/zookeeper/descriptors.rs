//! Open files, pipes and sockets that the caller passes on: the command gets each under its number,
//! zk-flock, guard and helpers close them when the command starts, and the command gets no
//! descriptor that they opened.

use common::lock_server::{LockServer, original};
use common::run::{Job, Running, exited};
use common::sandbox::Sandbox;
use common::zookeeper::ZooKeeper;
use common::{process, wait_for, wait_until};
use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;

/// Prints every descriptor beyond stdio that the shell has, and what it is. The folder that the
/// shell itself reads for it is closed again by then.
const PROBE: &str = "for fd in /proc/$$/fd/*; do n=${fd##*/}; test $n -gt 2 && test -e $fd && echo $n $(readlink $fd); done; :";

/// zk-flock on a server and on this host alone, lockex and distributex, each about to run this by a
/// shell. A command that is told to end may take its time.
fn clients<'a>(sandbox: &'a Sandbox, server: &LockServer, script: &str) -> [Job<'a>; 4] {
    [
        sandbox.flock(
            ZooKeeper::shared(),
            &["-l", "0", "-k", "1000", "lock", "--", "sh", "-c", script],
        ),
        sandbox.local(&["-l", "0", "-k", "1000", "lock", "--", "sh", "-c", script]),
        sandbox.lockex(ZooKeeper::shared(), &["-i", "id", "-k", "1000", script]),
        sandbox.distributex(server.port, &["-k", "1000", script]),
    ]
}

/// A lock server where everything is free.
fn generous() -> LockServer {
    LockServer::start(|what| {
        original(if what.starts_with("release") {
            "OK"
        } else {
            "YES"
        })
    })
}

fn shell<'a>(sandbox: &'a Sandbox, script: &str) -> Job<'a> {
    Job::new(sandbox, Path::new("bash")).words(&["-c", script])
}

/// Makes a named pipe in the sandbox.
fn pipe(sandbox: &Sandbox, name: &str) {
    assert_eq!(
        Job::new(sandbox, Path::new("mkfifo")).words(&[name]).run(),
        exited(0)
    );
}

/// Reads a pipe of the sandbox to its end.
fn reader<'a>(sandbox: &'a Sandbox, name: &str) -> Running<'a> {
    Job::new(sandbox, Path::new("cat")).words(&[name]).start()
}

/// Processes of the sandbox that have this file of its open.
fn having_open(sandbox: &Sandbox, name: &str) -> Vec<i32> {
    let path = sandbox.path(name);
    let has = |&pid: &i32| {
        let open = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten();
        open.filter_map(|fd| fs::read_link(fd.path()).ok())
            .any(|file| file == path)
    };
    sandbox.processes().into_iter().filter(has).collect()
}

#[test]
fn the_command_gets_inherited_descriptors_under_their_numbers_and_no_other() {
    let (sandbox, server) = (Sandbox::new(), generous());
    fs::write(sandbox.path("in"), "").unwrap();
    pipe(&sandbox, "pipe");
    for redirections in [
        "",
        "3<in",
        "5<in",
        "3<in 4<>pipe 9>>out",
        "3<in 4<in 5<in 6<in 7<in 8<in 9<in 10<in 11<in 12<in",
        "63<in",
        "200<>pipe",
        "300<in",
    ] {
        let direct = shell(&sandbox, &format!("exec sh -c '{PROBE}' {redirections}")).run();
        assert_eq!(direct.end, Ok(0), "{direct:?}");
        for job in clients(&sandbox, &server, PROBE) {
            let outcome = shell(&sandbox, &format!("exec {} {redirections}", job.line())).run();
            assert_eq!(outcome, direct, "{}", job.line());
        }
    }
}

#[test]
fn process_substitution_works() {
    let (sandbox, server) = (Sandbox::new(), generous());
    // In distributex the command is one word.
    for (job, space) in [
        (
            sandbox.flock(ZooKeeper::shared(), &["-l", "0", "lock", "--", "cat"]),
            " ",
        ),
        (sandbox.local(&["-l", "0", "lock", "--", "cat"]), " "),
        (
            sandbox.lockex(ZooKeeper::shared(), &["-i", "id", "--", "cat"]),
            " ",
        ),
        (sandbox.distributex(server.port, &["cat"]), "' '"),
    ] {
        let script = [&job.line(), "<(echo one)", "<(echo two)"].join(space);
        assert_eq!(
            shell(&sandbox, &script).run(),
            exited(0).printing("one\ntwo\n"),
            "{script}"
        );
    }
}

#[test]
fn the_jobserver_of_make_works() {
    let (sandbox, server) = (Sandbox::new(), generous());
    // Each of the two waits for the other: only a make that runs both at once ends.
    let other = "both: one two\none two:\n\t@touch $@; while ! test -e one || ! test -e two; do sleep 0.01; done\n.PHONY: one two\n";
    fs::write(sandbox.path("other"), other).unwrap();
    for job in clients(&sandbox, &server, "make -f other both") {
        let _ = [
            fs::remove_file(sandbox.path("one")),
            fs::remove_file(sandbox.path("two")),
        ];
        let line = job.line().replace('$', "$$");
        fs::write(sandbox.path("Makefile"), format!("all:\n\t@+{line}\n")).unwrap();
        let outcome = Job::new(&sandbox, Path::new("make"))
            .words(&["-s", "-j2"])
            .run();
        assert_eq!(outcome, exited(0), "{line}");
    }
}

/// What a service manager does: listens, and executes a program with the socket as descriptor 3.
const MANAGER: &str = r#"
import os, socket, sys
listener = socket.create_server(("127.0.0.1", 0))
open("port.new", "w").write(str(listener.getsockname()[1]))
os.rename("port.new", "port")
os.dup2(listener.detach(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=sys.argv[1] % os.getpid(), LISTEN_PIDFDID="7", LISTEN_FDS="1", LISTEN_FDNAMES="web")
os.execvp(sys.argv[2], sys.argv[2:])
"#;

/// A server of one connection, on a socket that it was given; tells what it was told of that.
const SERVER: &str = r#"
import os, socket
told = [os.environ.get(name) for name in ("LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")]
whose = "mine" if os.environ["LISTEN_PID"] == str(os.getpid()) else "another's"
connection, _ = socket.socket(fileno=3).accept()
connection.sendall(f"{told} {whose}".encode())
"#;

#[test]
fn a_command_gets_the_sockets_of_its_service_manager() {
    let (sandbox, server) = (Sandbox::new(), generous());
    fs::write(sandbox.path("manager.py"), MANAGER).unwrap();
    fs::write(sandbox.path("server.py"), SERVER).unwrap();
    for (pid, expected) in [
        ("%d", "['1', 'web', None] mine"),
        ("9%d", "['1', 'web', '7'] another's"),
    ] {
        for job in clients(&sandbox, &server, "exec python3 server.py") {
            let run = shell(
                &sandbox,
                &format!("exec python3 manager.py {pid} {}", job.line()),
            )
            .start();
            wait_until("the manager to listen", || sandbox.path("port").exists());
            let port = sandbox.read("port").parse().unwrap();
            fs::remove_file(sandbox.path("port")).unwrap();
            let mut answer = String::new();
            TcpStream::connect((Ipv4Addr::LOCALHOST, port))
                .unwrap()
                .read_to_string(&mut answer)
                .unwrap();
            assert_eq!(answer, expected, "{}", job.line());
            assert_eq!(run.wait(), exited(0));
        }
    }
}

#[test]
fn a_pipe_ends_when_the_command_closes_it() {
    let (sandbox, server) = (Sandbox::new(), generous());
    pipe(&sandbox, "pipe");
    for fd in [3, 9, 63, 200] {
        for job in clients(
            &sandbox,
            &server,
            &format!("exec bash -c 'echo x >&{fd}; exec {fd}>&-; cat'"),
        ) {
            let reader = reader(&sandbox, "pipe");
            let mut run = shell(&sandbox, &format!("exec {} {fd}>pipe", job.line()))
                .leashed()
                .start();
            assert_eq!(reader.wait(), exited(0).printing("x\n"), "{}", job.line());
            assert!(!run.has_ended(), "the command is still there");
            assert_eq!(run.finish(), exited(0));
        }
    }
}

#[test]
fn a_pipe_ends_with_the_command_and_not_with_its_minimum_hold() {
    let sandbox = Sandbox::new();
    pipe(&sandbox, "pipe");
    let words = ["-v", "-l", "1000", "lock", "--", "sh", "-c", "echo x >&3"];
    for job in [
        sandbox.flock(ZooKeeper::shared(), &words),
        sandbox.local(&words),
    ] {
        let reader = reader(&sandbox, "pipe");
        let mut run = shell(&sandbox, &format!("exec {} 3>pipe", job.line())).start();
        assert_eq!(reader.wait(), exited(0).printing("x\n"), "{}", job.line());
        wait_until("the minimum hold", || run.stderr().contains("Child exited"));
        assert!(!run.has_ended(), "it holds its lock");
        run.signal(libc::SIGTERM); // ends the hold
        assert_eq!(run.wait().end, Ok(0));
    }
}

/// The command outlives zk-flock, deaf to TERM, until it is killed: the guard has nothing of its
/// pipe.
#[test]
fn a_pipe_ends_when_the_command_closes_it_although_zk_flock_was_killed() {
    let (sandbox, server) = (Sandbox::new(), generous());
    pipe(&sandbox, "pipe");
    let script = "trap '' TERM; echo x >&3; touch ready; while ! test -e go; do sleep 0.01; done; exec 3>&-; cat";
    for job in clients(&sandbox, &server, script) {
        let _ = [
            fs::remove_file(sandbox.path("go")),
            fs::remove_file(sandbox.path("ready")),
        ];
        let reader = reader(&sandbox, "pipe");
        let line = job.line();
        let run = shell(&sandbox, &format!("exec {line} 3>pipe"))
            .leashed()
            .start();
        wait_until("the command", || sandbox.path("ready").exists());
        let guard = run.guard();
        run.signal(libc::SIGKILL);
        fs::write(sandbox.path("go"), "").unwrap();
        assert_eq!(reader.wait(), exited(0).printing("x\n"), "{line}");
        assert!(process::alive(guard));
        assert_eq!(run.finish().end, Err(libc::SIGKILL));
        wait_until("nothing to be left", || sandbox.processes().is_empty());
    }
}

#[test]
fn a_helper_that_waits_for_a_lock_has_no_descriptor_of_the_command() {
    let sandbox = Sandbox::new();
    pipe(&sandbox, "pipe");
    let _keeps_open = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(sandbox.path("pipe"))
        .unwrap();
    let mut holder = sandbox.local(&["-l", "0", "lock", "cat"]).leashed().start();
    holder.job();
    let waiter = sandbox.local(&["-l", "0", "-w", "60", "lock", "true"]);
    let waiter = shell(&sandbox, &format!("exec {} 3>pipe", waiter.line())).start();
    let helper = || {
        process::children(waiter.pid())
            .into_iter()
            .any(|pid| process::name(pid) == "lock-waiter")
    };
    wait_until("a helper", helper);
    wait_until("only zk-flock to have it", || {
        having_open(&sandbox, "pipe") == [waiter.pid()]
    });
    holder.let_go();
    assert_eq!([holder.wait(), waiter.wait()], [exited(0), exited(0)]);
}

#[test]
fn a_daemon_and_its_command_have_no_descriptor_of_the_caller() {
    let sandbox = Sandbox::new();
    pipe(&sandbox, "pipe");
    let script = format!(
        "({PROBE}) >{0}.new; mv {0}.new {0}; sleep 1000",
        sandbox.path("facts").display()
    );
    for job in [
        sandbox.flock(
            ZooKeeper::shared(),
            &["-d", "-l", "0", "lock", "--", "sh", "-c", &script],
        ),
        sandbox.local(&["-d", "-l", "0", "lock", "--", "sh", "-c", &script]),
    ] {
        let reader = reader(&sandbox, "pipe");
        assert_eq!(
            shell(&sandbox, &format!("exec {} 3>pipe 9>>pipe", job.line())).run(),
            exited(0)
        );
        assert_eq!(reader.wait(), exited(0));
        wait_until("the facts", || sandbox.path("facts").exists());
        assert_eq!(sandbox.read("facts"), "");
        fs::remove_file(sandbox.path("facts")).unwrap();
        let command = wait_for("the command", || {
            sandbox.running("sleep 1000").first().copied()
        });
        assert!(process::kill(command, libc::SIGTERM));
        wait_until("nothing to be left", || sandbox.processes().is_empty());
    }
}
