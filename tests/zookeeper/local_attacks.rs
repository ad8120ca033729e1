//! `--local` where other users may write, and beside programs that remove old files: nothing
//! outside the folder is touched, and a lock that is held is not held a second time. Needs root, as
//! other users' files are made here.

#![allow(
    clippy::disallowed_methods,
    reason = "a test may use threads; the program may not"
)]

use common::run::{Job, Outcome, exited};
use common::sandbox::Sandbox;
use common::wait_until;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

/// A user other than root.
const USER: u32 = 54321;

/// A folder where every user may write, in which a lock `lock` is below `app`, and a folder of
/// root's beside it.
struct Scene {
    sandbox: Sandbox,
    shared: PathBuf,
    victim: PathBuf,
}

impl Scene {
    fn new() -> Scene {
        let sandbox = Sandbox::new();
        let [shared, victim] = ["shared", "victim"].map(|name| sandbox.path(name));
        for (folder, mode) in [(&shared, 0o777), (&victim, 0o700)] {
            fs::create_dir(folder).unwrap();
            set_mode(folder, mode);
        }
        fs::write(victim.join("precious"), "12\n").unwrap();
        set_mode(&victim.join("precious"), 0o600);
        Scene {
            sandbox,
            shared,
            victim,
        }
    }

    /// Root's run of a lock of this name, with options.
    fn run(&self, options: &[&str], name: &str) -> Outcome {
        let folder = format!("--local={}", self.shared.display());
        self.sandbox
            .program(
                &[
                    &[&folder, "--app-id=app", "-x17", "-l0"],
                    options,
                    &[name, "touch ran"],
                ]
                .concat(),
            )
            .run()
    }

    /// Asserts that nothing was run, and that the folder of root's is as it was.
    #[track_caller]
    fn assert_untouched(&self) {
        assert!(!self.sandbox.path("ran").exists());
        let names: Vec<_> = fs::read_dir(&self.victim)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["precious"]);
        let modes = [self.victim.clone(), self.victim.join("precious")].map(mode);
        assert_eq!(
            (modes, self.sandbox.read("victim/precious").as_str()),
            ([0o700, 0o600], "12\n")
        );
    }

    /// Makes the folder of the application, as another user may.
    fn make_app(&self) -> PathBuf {
        let app = self.shared.join("app");
        fs::create_dir(&app).unwrap();
        chown(&app, Some(USER), None).unwrap();
        app
    }
}

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_link_below_a_folder_that_others_may_write_to_is_refused() {
    let scene = Scene::new();
    let link = scene.shared.join("app");
    for target in ["victim", "victim/no-such-folder", "shared/elsewhere"] {
        symlink(scene.sandbox.path(target), &link).unwrap();
        for (options, name) in [(&[][..], "precious"), (&[], "new"), (&["-w", "1"], "new")] {
            let facts = [
                link.to_str().unwrap(),
                "is a symbolic link",
                &format!("write to {}:", scene.shared.display()),
                "remove the link",
            ];
            scene.run(options, name).complains(1, &facts);
        }
        fs::remove_file(&link).unwrap();
    }
    scene.assert_untouched();
    assert_eq!(fs::read_dir(&scene.shared).unwrap().count(), 0);
}

#[test]
fn a_link_in_the_path_of_the_folder_is_refused() {
    let scene = Scene::new();
    symlink(&scene.victim, scene.shared.join("link")).unwrap();
    fs::create_dir(scene.shared.join("own")).unwrap(); // root's, but another user may have moved it here
    symlink(&scene.victim, scene.shared.join("own/link")).unwrap();
    for path in ["link", "link/deep/deeper", "own/link", "own/../link"] {
        let folder = format!("--local={}", scene.shared.join(path).display());
        let run = scene.sandbox.program(&[&folder, "lock", "touch ran"]).run();
        run.complains(
            1,
            &[
                "shared",
                "link is a symbolic link",
                "other users may write to",
            ],
        );
    }
    scene.assert_untouched();
}

/// Runs this script as root in a /run/lock of its own, in which no other user may write.
fn in_a_folder_of_root(sandbox: &Sandbox, script: &str) -> Outcome {
    let whole = format!(
        "mkdir -p /run/lock && mount -t tmpfs -o mode=755 none /run/lock && cd /run/lock && {script}"
    );
    Job::new(sandbox, Path::new("unshare"))
        .words(&["--mount", "sh", "-c", &whole])
        .run()
}

#[test]
fn a_link_that_only_root_can_have_made_is_followed() {
    let sandbox = Sandbox::new();
    let program = sandbox.program(&[]).line();
    for (before, path, found) in [
        ("mkdir real && ln -s real link", "link", "real/app/lock"),
        (
            "mkdir real && ln -s ../lock/./link2 link && ln -s /run/lock/real link2",
            "link/deep",
            "real/deep/app/lock",
        ),
        (
            "mkdir real other && ln -s ../other real/app",
            "real",
            "other/lock",
        ),
    ] {
        let script = format!(
            "{before} && {program} --local=/run/lock/{path} --app-id=app -l 0 lock true && stat -c %A {found}"
        );
        assert_eq!(
            in_a_folder_of_root(&sandbox, &script),
            exited(0).printing("-rw-r--r-T\n"),
            "{before}"
        );
    }
    for (before, facts) in [
        (
            "ln -s link2 link && ln -s link link2",
            &["link", "symbolic links"][..],
        ),
        (
            "ln -s nowhere link",
            &["/run/lock/nowhere", "no such folder"],
        ),
        (
            "mkdir -m 1777 shared && ln -s shared/theirs link && ln -s /run/lock shared/theirs",
            &["/shared/theirs is a symbolic link"],
        ),
        ("touch link", &["/run/lock/link", "not a folder"]),
    ] {
        let script = format!("{before} && exec {program} --local=/run/lock/link lock 'touch ran'");
        in_a_folder_of_root(&sandbox, &script).complains(1, facts);
    }
    assert!(!sandbox.path("ran").exists());
}

#[test]
fn a_lock_file_that_is_not_regular_is_refused_without_blocking() {
    let scene = Scene::new();
    let app = scene.make_app();
    for (make, what) in [
        ("mkfifo lock", "regular file"),
        ("mknod lock c 1 5", "regular file"),
        ("mknod lock b 240 250", "regular file"),
        ("mkdir lock", "is a directory"),
        (
            "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"lock\")'",
            "a socket",
        ),
        ("ln -s ../../victim/precious lock", "symbolic link"),
    ] {
        assert!(
            Command::new("sh")
                .args(["-c", make])
                .current_dir(&app)
                .status()
                .unwrap()
                .success(),
            "{make}"
        );
        for options in [&[][..], &["-w", "1"]] {
            scene
                .run(options, "lock")
                .complains(1, &[app.join("lock").to_str().unwrap(), what]);
        }
        assert!(
            Command::new("rm")
                .args(["-r", "lock"])
                .current_dir(&app)
                .status()
                .unwrap()
                .success()
        );
    }
    scene.assert_untouched();
}

#[test]
fn a_file_with_two_hard_links_is_not_written() {
    let scene = Scene::new();
    let link = scene.make_app().join("lock");
    for content in ["12\n", ""] {
        fs::write(scene.victim.join("precious"), content).unwrap();
        fs::hard_link(scene.victim.join("precious"), &link).unwrap();
        for options in [&[][..], &["-w", "1"]] {
            scene
                .run(options, "lock")
                .complains(1, &[link.to_str().unwrap(), "hard link"]);
        }
        fs::remove_file(&link).unwrap();
        assert_eq!(scene.sandbox.read("victim/precious"), content);
    }
}

/// Another user can link a file to the name and remove the link in the very moment in which the
/// links are counted.
#[test]
fn in_a_shared_folder_a_foreign_file_is_not_written() {
    let scene = Scene::new();
    let file = scene.make_app().join("lock");
    fs::write(&file, "").unwrap();
    let facts = [
        file.to_str().unwrap(),
        "no sticky bit",
        &format!("write to {}:", file.parent().unwrap().display()),
        "chmod +t",
    ];
    scene.run(&[], "lock").complains(1, &facts);
    assert_eq!(fs::read_to_string(&file).unwrap(), "");
    set_mode(&file, 0o1666);
    assert_eq!(scene.run(&[], "lock"), exited(0), "an operator has said so");
    fs::remove_file(scene.sandbox.path("ran")).unwrap();
    let program = scene
        .sandbox
        .program(&[
            "--local=/run/lock",
            "--app-id=app",
            "-l",
            "0",
            "lock",
            "echo mine",
        ])
        .line();
    let script = format!("mkdir app && touch app/lock && exec {program}");
    assert_eq!(
        in_a_folder_of_root(&scene.sandbox, &script),
        exited(0).printing("mine\n"),
        "no other user can have made it"
    );
    scene.assert_untouched();
}

#[test]
fn a_file_with_foreign_content_is_not_written() {
    let scene = Scene::new();
    let file = scene.make_app().join("lock");
    for content in [
        "root:x:0:0:root:/root:/bin/bash\n",
        "junk",
        "-5",
        "5",
        "99999999999999999999999\n",
        "\0\0\0",
        &"7".repeat(5000),
    ] {
        fs::write(&file, content).unwrap();
        set_mode(&file, 0o1666);
        scene
            .run(&[], "lock")
            .complains(1, &[file.to_str().unwrap(), "fencing token"]);
        assert_eq!(fs::read_to_string(&file).unwrap(), content);
    }
    scene.assert_untouched();
}

#[test]
fn existing_files_keep_mode_and_owner() {
    let scene = Scene::new();
    let app = scene.make_app();
    fs::write(app.join("lock"), "").unwrap();
    for (path, mode) in [
        (&app, 0o750),
        (&app.join("lock"), 0o1640),
        (&scene.shared, 0o3777),
    ] {
        set_mode(path, mode);
    }
    assert_eq!(scene.run(&[], "lock"), exited(0));
    let found = [&app, &app.join("lock"), &scene.shared]
        .map(|path| (mode(path), fs::metadata(path).unwrap().uid()));
    assert_eq!(found, [(0o750, USER), (0o1640, 0), (0o3777, 0)]);
}

/// The link is exchanged for a folder and back all the time, and removed in between, as the folder
/// that root has just made is.
#[test]
fn a_link_that_appears_and_disappears_is_never_followed() {
    let scene = Scene::new();
    let over = AtomicBool::new(false);
    let swaps = AtomicUsize::new(0);
    let [app, link, folder] = ["app", "link", "folder"].map(|name| scene.shared.join(name));
    symlink(&scene.victim, &link).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Relaxed) {
                let _ = fs::create_dir(&folder);
                for away in [&link, &folder] {
                    // In turn the link is there, nothing, a folder, nothing: then whatever was made
                    // meanwhile goes.
                    swaps.fetch_add(usize::from(fs::rename(away, &app).is_ok()), Relaxed);
                    std::thread::yield_now();
                    if fs::rename(&app, away).is_err() {
                        let _ = fs::rename(
                            &app,
                            scene.shared.join(format!("made-{}", swaps.load(Relaxed))),
                        );
                    }
                }
                if !link.is_symlink() {
                    let _ = symlink(&scene.victim, &link);
                }
            }
        });
        let mut outcomes = Vec::new();
        while outcomes.len() < 300 || swaps.load(Relaxed) <= 1000 {
            outcomes.push(scene.run(&[], "new"));
        }
        over.store(true, Relaxed);
        let refused = outcomes
            .iter()
            .filter(|outcome| outcome.end == Ok(1))
            .collect::<Vec<_>>();
        for outcome in &refused {
            outcome.complaint(&["shared"]);
        }
        common::report(
            "runs beside a link that appears and disappears, refused",
            format!("{} of {}", refused.len(), outcomes.len()),
        );
        assert!(!refused.is_empty());
    });
    let _ = fs::remove_file(scene.sandbox.path("ran")); // a run that met a folder may run
    scene.assert_untouched();
}

#[test]
fn users_share_a_lock_in_a_folder_that_all_may_write_to() {
    let scene = Scene::new();
    set_mode(&scene.shared, 0o1777);
    set_mode(&scene.sandbox.folder, 0o755);
    let user = format!(
        "setpriv --reuid={USER} --clear-groups --inh-caps=-all --ambient-caps=-all --bounding-set=-all"
    );
    let line = |words: &str| {
        let program = scene
            .sandbox
            .program(&[
                &format!("--local={}", scene.shared.display()),
                "-l0",
                "-x17",
            ])
            .line();
        format!("{program} {words}")
    };
    // The program may lie where that user cannot go, so it goes there first.
    let copy = scene.shared.join("zk-flock");
    fs::copy(common::sandbox::executable(), &copy).unwrap();
    let as_user = |words: &str| {
        let line = format!("exec {user} ./zk-flock --local=. -l0 -x17 {words}");
        Job::new(&scene.sandbox, Path::new("sh")).words(&["-c", &format!("cd shared && {line}")])
    };
    let holder = as_user("lock 'sh -c \"echo ready; cat\"'")
        .leashed()
        .start();
    holder.wait_for_output("ready");
    let root = |words: &str| {
        Job::new(&scene.sandbox, Path::new("sh")).words(&["-c", &format!("exec {}", line(words))])
    };
    assert_eq!(root("lock 'touch ran'").run(), exited(17));
    assert_eq!(holder.finish(), exited(0).printing("ready\n"));
    for _ in 0..2 {
        assert_eq!(root("lock 'echo mine'").run(), exited(0).printing("mine\n"));
        assert_eq!(
            as_user("lock 'echo mine'").run(),
            exited(0).printing("mine\n")
        );
    }
    assert_eq!(
        root("roots 'echo mine'").run(),
        exited(0).printing("mine\n")
    );
    assert_eq!(
        as_user("roots 'echo mine'").run(),
        exited(0).printing("mine\n")
    );
}

/// The next run must not begin beside the holder of a new file only because the holder of the old
/// one, which was removed, has ended.
#[test]
fn a_waiter_for_a_file_that_was_replaced_waits_for_the_new_one() {
    let sandbox = Sandbox::new();
    let file = sandbox.path("locks").join(&sandbox.id).join("lock");
    let mut first = sandbox.local(&["-l", "0", "lock", "cat"]).leashed().start();
    first.job();
    let mut waiters: Vec<_> = (0..2)
        .map(|_| {
            sandbox
                .local(&["-l", "0", "-w", "60", "lock", "echo mine"])
                .start()
        })
        .collect();
    let waiting = |inode: u64| {
        let waits = |line: &&str| line.contains("-> FLOCK") && line.contains(&format!(":{inode} "));
        fs::read_to_string("/proc/locks")
            .unwrap()
            .lines()
            .filter(waits)
            .count()
    };
    wait_until("two waiters", || {
        waiting(fs::metadata(&file).unwrap().ino()) == 2
    });
    fs::remove_file(&file).unwrap();
    let mut second = sandbox.local(&["-l", "0", "lock", "cat"]).leashed().start();
    second.job(); // nothing prevents this: the old file is gone
    first.let_go();
    assert_eq!(first.wait(), exited(0));
    wait_until("two waiters for the new file", || {
        waiting(fs::metadata(&file).unwrap().ino()) == 2
    });
    assert!(waiters.iter_mut().all(|waiter| !waiter.has_ended()));
    assert_eq!(
        waiters
            .iter()
            .map(common::run::Running::stdout)
            .collect::<String>(),
        ""
    );
    second.let_go();
    assert_eq!(second.wait(), exited(0));
    for waiter in waiters {
        assert_eq!(waiter.wait(), exited(0).printing("mine\n"));
    }
}

/// Cleans until an old file without the mark is gone, then runs again.
#[test]
fn systemd_tmpfiles_leaves_a_held_lock() {
    let clean = |sandbox: &Sandbox, folder: &Path| {
        let rules = sandbox.path("rules.conf");
        fs::write(&rules, format!("d {} - - - 1s\n", folder.display())).unwrap();
        let control = folder.join("old");
        fs::write(&control, "").unwrap();
        wait_until("an old file to be removed", || {
            let _ = Command::new("systemd-tmpfiles")
                .arg("--clean")
                .arg(&rules)
                .status()
                .expect("systemd-tmpfiles can be run");
            !control.exists()
        });
    };
    let sandbox = Sandbox::new();
    let locks = sandbox.path("locks");
    for aged in [
        &locks,
        &locks.join(&sandbox.id),
        &sandbox.folder.join("above"),
    ] {
        let local = format!(
            "--local={}",
            if aged.ends_with("above") {
                aged.join("locks")
            } else {
                locks.clone()
            }
            .display()
        );
        let job = |command| {
            sandbox.program(&[
                &local,
                "--app-id",
                &sandbox.id,
                "-l0",
                "-x17",
                "lock",
                command,
            ])
        };
        let mut holder = job("cat").leashed().start();
        holder.job();
        clean(&sandbox, aged);
        assert_eq!(job("touch ran").run(), exited(17), "{}", aged.display());
        holder.let_go();
        assert_eq!(holder.wait(), exited(0));
    }
}

/// A run of root or another user with the default folder in this /run/lock and /tmp.
fn in_default_folder(sandbox: &Sandbox, before: &str, script: &str) -> Outcome {
    fs::copy(common::sandbox::executable(), sandbox.path("zk-flock")).unwrap();
    let mounts = "mkdir -p /run/lock && mount -t tmpfs none /run/lock && mount -t tmpfs none /tmp && cp zk-flock /tmp";
    let functions = format!(
        "lock() {{ /tmp/zk-flock --local -l0 -x17 lock \"$@\"; }}; \
         user() {{ setpriv --reuid={USER} --clear-groups --inh-caps=-all --bounding-set=-all /tmp/zk-flock --local -l0 -x17 lock \"$@\"; }}"
    );
    let whole = format!("{mounts} && cd / && {before} && {functions} && {script}");
    Job::new(sandbox, Path::new("unshare"))
        .words(&["--mount", "sh", "-c", &whole])
        .run()
}

#[test]
fn the_default_folder_depends_on_the_host_alone() {
    let sandbox = Sandbox::new();
    let user = format!("/zk-flock-{USER}/default/lock");
    for (before, folder) in [
        (":", "/run/lock"),
        ("chmod 755 /run/lock", "/tmp"),
        ("chmod 777 /run/lock", "/tmp"),
        (
            "umount /run/lock && mount --bind /tmp /run && mkdir /tmp/tmp",
            "/tmp",
        ),
    ] {
        for runtime in [
            "unset XDG_RUNTIME_DIR",
            "mkdir -m 777 /tmp/x; export XDG_RUNTIME_DIR=/tmp/x",
        ] {
            let script =
                format!("{runtime}; lock 'printenv ZK_FLOCK_LOCK'; user 'printenv ZK_FLOCK_LOCK'");
            let lines = in_default_folder(&sandbox, before, &script);
            let root = format!("{folder}/zk-flock-0/default/lock\n");
            assert_eq!((lines.end, lines.stderr.as_str()), (Ok(0), ""), "{before}");
            assert_eq!(lines.stdout, format!("{root}{folder}{user}\n"), "{before}");
        }
    }
}

#[test]
fn cron_and_a_login_shell_of_one_user_exclude_each_other() {
    let sandbox = Sandbox::new();
    for who in ["lock", "user"] {
        let script = format!(
            "mkdir -m 777 /tmp/x; mkfifo -m 666 /tmp/go /tmp/end; \
             XDG_RUNTIME_DIR=/tmp/x; export XDG_RUNTIME_DIR; {who} 'sh -c \"echo >/tmp/go; read line </tmp/end\"' & \
             read line </tmp/go; unset XDG_RUNTIME_DIR; {who} 'echo both'; echo $?; echo >/tmp/end; wait"
        );
        assert_eq!(
            in_default_folder(&sandbox, ":", &script),
            exited(0).printing("17\n")
        );
    }
}

#[test]
fn the_file_of_a_host_lock_is_marked_as_in_use_and_no_other_is_written_into() {
    let sandbox = Sandbox::new();
    let (file, id) = (sandbox.host_lock(), sandbox.id.clone());
    let run = |command| sandbox.program(&["--program=distributex", "-l", "-r", &id, command]);
    let modes = format!("stat -c %a:%s {}", file.display());
    let held = |outcome: &Outcome| {
        assert_eq!(outcome.end, Ok(0), "{outcome:?}");
        assert!(outcome.stdout.starts_with("1644:"), "{outcome:?}");
        assert!(!file.exists());
    };
    held(&run(&modes).run());
    // What an original has left behind is replaced by a file that is marked.
    for stale in ["", "4194304"] {
        fs::write(&file, stale).unwrap();
        held(&run(&modes).run());
    }
    for content in ["", "4194304"] {
        fs::write(sandbox.path("precious"), content).unwrap();
        fs::hard_link(sandbox.path("precious"), &file).unwrap();
        let outcome = run("touch ran").run();
        assert_eq!(outcome.end, Ok(1));
        outcome.complaint_of(
            "distributex",
            &["Broken lock file", file.to_str().unwrap(), "remove it"],
        );
        assert_eq!(sandbox.read("precious"), content);
        fs::remove_file(&file).unwrap();
    }
    assert!(!sandbox.path("ran").exists());
}
