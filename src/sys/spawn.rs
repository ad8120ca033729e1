//! Starts a command. The child borrows our memory until it executes, as with vfork(2): nothing is
//! copied, and why it cannot be executed is simply there. posix_spawn(3) is the same, but knows no
//! signal at the parent's death; and nothing in std is.

use super::check;
use super::inherited::Inherited;
use super::listen_pid::{self, ListenPid};
use super::process::{self, Pid};
use crate::signal::Signal;
use std::ffi::{CStr, CString, OsString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
use std::{io, ptr};

unsafe extern "C" {
    /// The environment, as environ(7) has it.
    static environ: *const *const c_char;
}

/// Stack of the child until it executes: it puts a path of PATH together there, of 4 KiB at most.
/// Where the C library is one that runs a script without `#!` by the shell, the words are copied
/// there as well.
const STACK: usize = 64 << 10;

/// What the child is told, and tells.
struct Orders<'a> {
    words: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    /// Part of the environment if sockets were passed.
    listen_pid: Option<&'a ListenPid>,
    inherited: Inherited,
    death_signal: Option<Signal>,
    own_group: bool,
    parent: Pid,
    /// Why it is not executed: errno.
    failure: AtomicI32,
}

/// A variable that is set so, or not at all, whatever it is in our environment.
pub type Variable<'a> = (&'a str, Option<String>);

/// Starts a program that is looked for on PATH, with our environment but for these variables, and
/// what else we were started with: [`Inherited`], and all descriptors that are not close-on-exec.
/// It gets `death_signal` when we die; if we are dead already, it is not begun: ESRCH.
/// `parent`: this process. `own_group`: it leads a process group of its own.
pub fn spawn(
    words: &[OsString],
    variables: &[Variable],
    inherited: Inherited,
    death_signal: Option<Signal>,
    parent: Pid,
    own_group: bool,
) -> io::Result<Pid> {
    let words: Vec<CString> = words
        .iter()
        .map(|word| CString::new(word.as_bytes()))
        .collect::<Result<_, _>>()?;
    let set = variables.iter().filter_map(|(name, value)| {
        value
            .as_ref()
            .map(|value| CString::new(format!("{name}={value}")))
    });
    let set: Vec<CString> = set.collect::<Result<_, _>>()?;
    let listen_pid = inherited.sockets.then(ListenPid::new);
    let others = inherited_environment(variables, inherited.sockets);
    let orders = Orders {
        words: terminated(words.iter().map(|word| word.as_ptr())),
        environment: terminated(
            others
                .chain(set.iter().map(|set| set.as_ptr()))
                .chain(listen_pid.iter().map(ListenPid::as_ptr)),
        ),
        listen_pid: listen_pid.as_ref(),
        inherited,
        death_signal,
        own_group,
        parent,
        failure: AtomicI32::new(0),
    };
    let mut stack =
        Vec::<u128>::with_capacity((STACK + size_of_val(&orders.words[..])) / size_of::<u128>());
    let top = stack.spare_capacity_mut().as_mut_ptr_range().end;
    // SAFETY: clone(2) with CLONE_VM and CLONE_VFORK stops us until the child has executed or
    // ended, so what it is given outlives its use; the stack is aligned and nobody else's. The
    // child does what is allowed after vfork(2): it calls the kernel, and allocates nothing.
    let child = unsafe {
        libc::clone(
            execute,
            top.cast(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            (&raw const orders).cast_mut().cast(),
        )
    };
    let child = Pid(check(child)?);
    match orders.failure.load(Relaxed) {
        0 => Ok(child),
        errno => {
            let _ = process::wait(child);
            Err(io::Error::from_raw_os_error(errno))
        }
    }
}

/// The child.
extern "C" fn execute(orders: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes its orders, and waits while we use them.
    let Orders {
        words,
        environment,
        listen_pid,
        inherited,
        death_signal,
        own_group,
        parent,
        failure,
    } = unsafe { &*orders.cast_const().cast::<Orders>() };
    if *own_group {
        process::own_group(); // while signals are still blocked
    }
    if let Some(variable) = listen_pid {
        variable.set(process::own_pid());
    }
    let ready = process::die_with_parent(*death_signal, *parent)
        .and_then(|()| inherited.restore_for_exec());

    let error = ready.err().unwrap_or_else(|| {
        // SAFETY: execvpe(3) reads strings and two arrays that a null pointer ends.
        unsafe { libc::execvpe(words[0], words.as_ptr(), environment.as_ptr()) };
        io::Error::last_os_error()
    });
    failure.store(error.raw_os_error().unwrap_or(libc::EINVAL), Relaxed);
    // Seen only where memory is not shared after all: qemu-user and valgrind make a fork of it.
    process::leave(if error.kind() == io::ErrorKind::NotFound {
        127
    } else {
        126
    })
}

/// Our own environment without these variables and, if sockets were passed to zk-flock, without
/// those that name the process.
fn inherited_environment(
    without: &[Variable],
    sockets: bool,
) -> impl Iterator<Item = *const c_char> {
    // SAFETY: environ(7): an array of strings that a null pointer ends; nobody changes it, since
    // `set_var` is not used here.
    let mut next = unsafe { environ };
    let variables = std::iter::from_fn(move || {
        // SAFETY: see above; it is not gone beyond its end.
        let variable = unsafe { *next };
        if variable.is_null() {
            return None;
        }
        // SAFETY: a null pointer has not come yet.
        next = unsafe { next.add(1) };
        Some(variable)
    });
    variables.filter(move |&variable| {
        // SAFETY: it is a string.
        let text = unsafe { CStr::from_ptr(variable) }.to_bytes();
        let replaced = without.iter().any(|(name, _)| {
            text.strip_prefix(name.as_bytes())
                .is_some_and(|rest| rest.first() == Some(&b'='))
        });
        !(replaced || sockets && listen_pid::is_one(text))
    })
}

fn terminated(pointers: impl Iterator<Item = *const c_char>) -> Vec<*const c_char> {
    pointers.chain([ptr::null()]).collect()
}

#[cfg(test)]
mod tests {
    use super::super::disposition::{self, Disposition};
    use super::super::mask::Mask;
    use super::super::signals::Signals;
    use super::super::testing::check_in_child;
    use super::*;
    use crate::plan::Status;
    use std::env;
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    /// Tells a run of this test that it is the program in the middle.
    const MIDDLE: &str = "ZK_FLOCK_TEST_MIDDLE";
    const NAME: &str = "sys::spawn::tests::a_command_begins_as_we_did";

    /// Programs that tell what they were started with. A shell would change its signals, and grep
    /// opens a file where stdin is closed.
    const WITNESSES: [&[&str]; 2] = [
        &["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"],
        &[
            "sh",
            "-c",
            "for fd in 0 1 2; do test -e /proc/$$/fd/$fd && echo $fd open || echo $fd closed; done",
        ],
    ];

    /// Nothing odd.
    fn plain() -> Inherited {
        let [child, pipe, file_size] = [Disposition::Default; 3];
        Inherited {
            mask: Mask::of([]),
            child,
            pipe,
            file_size,
            sockets: false,
        }
    }

    fn command(words: &[&str]) -> Command {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command
    }

    fn owned(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    /// Starts a process in an odd state: two signals ignored, two blocked, stdin closed.
    fn oddly(command: &mut Command) -> String {
        let odd = || {
            for signal in [Signal::PIPE, Signal::CHLD] {
                disposition::set(signal, Disposition::Ignored)?;
            }
            Mask::of([Signal::USR2, Signal::TERM]).restore()?;
            // SAFETY: close(2) touches no memory, and exec follows.
            check(unsafe { libc::close(0) })?;
            Ok(())
        };
        // SAFETY: the closure makes async-signal-safe calls only.
        unsafe { command.pre_exec(odd) };
        let output = command.stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn a_command_begins_as_we_did() {
        if env::var_os(MIDDLE).is_some() {
            let signals = Signals::take().unwrap();
            let guard = signals.guard().unwrap();
            for witness in WITNESSES {
                let child = spawn(
                    &owned(witness),
                    &[],
                    guard.inherited(),
                    Some(Signal::KILL),
                    process::own_pid(),
                    false,
                )
                .unwrap();
                assert_eq!(process::wait(child).unwrap(), Status::Exited(0));
            }
            return;
        }
        let direct = WITNESSES
            .map(|witness| oddly(&mut command(witness)))
            .concat();
        let through_us = oddly(
            Command::new(env::current_exe().unwrap())
                .args(["--exact", "--nocapture", NAME])
                .env(MIDDLE, "1"),
        );
        assert!(
            direct.contains("SigBlk:\t0000000000004800")
                && direct.ends_with("0 closed\n1 open\n2 open\n"),
            "{direct}"
        );
        assert!(
            through_us.contains(&direct),
            "{through_us} should have {direct}"
        );
    }

    #[test]
    fn a_command_finds_our_environment_but_for_what_is_set_or_not() {
        let ours: Vec<_> = env::vars_os().collect();
        let [replaced, removed] = [0, 1].map(|index| ours[index].0.to_str().unwrap());
        let variables = [
            ("ADDED", Some("a = b".into())),
            (replaced, Some("new".into())),
            (removed, None),
            ("NEVER_SET", None),
        ];
        let child = spawn(
            &owned(&["/bin/sleep", "60"]),
            &variables,
            plain(),
            None,
            process::own_pid(),
            false,
        )
        .unwrap();
        let look = || std::fs::read(format!("/proc/{child}/environ")).unwrap();
        let found = std::iter::repeat_with(look)
            .find(|found| !found.is_empty())
            .unwrap(); // in the middle of exec there is none
        process::kill(child, Signal::KILL).unwrap();
        process::wait(child).unwrap();
        let kept = ours[2..]
            .iter()
            .map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes(), b"\0"].concat());
        let added = [
            b"ADDED=a = b\0".to_vec(),
            format!("{replaced}=new\0").into_bytes(),
        ];
        assert_eq!(
            String::from_utf8_lossy(&found),
            String::from_utf8_lossy(&kept.chain(added).collect::<Vec<_>>().concat())
        );
    }

    #[test]
    fn a_command_that_cannot_be_run_is_told_by_errno_and_leaves_no_child() {
        check_in_child(|| {
            for (word, errno) in [
                ("/nonexistent", libc::ENOENT),
                ("nonexistent", libc::ENOENT),
                ("/", libc::EACCES),
            ] {
                assert_eq!(
                    spawn(
                        &owned(&[word]),
                        &[],
                        plain(),
                        None,
                        process::own_pid(),
                        false
                    )
                    .unwrap_err()
                    .raw_os_error(),
                    Some(errno),
                    "{word}"
                );
            }
            assert_eq!(
                spawn(
                    &owned(&["a\0b"]),
                    &[],
                    plain(),
                    None,
                    process::own_pid(),
                    false
                )
                .unwrap_err()
                .kind(),
                io::ErrorKind::InvalidInput
            );
            assert_eq!(process::reap(), process::Reap::NoChildren);
        });
    }

    #[test]
    fn a_hundred_thousand_words_arrive() {
        let mut words = vec!["sh", "-c", "[ $# = 100000 ]", "sh"];
        words.resize(100_004, "x");
        let child = spawn(
            &owned(&words),
            &[],
            plain(),
            None,
            process::own_pid(),
            false,
        )
        .unwrap();
        assert_eq!(process::wait(child).unwrap(), Status::Exited(0));
    }
}
