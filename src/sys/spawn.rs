//! Starts a command. The child shares this process's memory until it executes, as with vfork(2):
//! nothing is copied, and an error of exec is written straight into it. posix_spawn(3) works the
//! same way, but cannot set a parent death signal; std has neither.

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
    /// The environment, as in environ(7).
    static environ: *const *const c_char;
}

/// Stack of the child until it executes: a path built from PATH is stored there, of 4 KiB at most.
/// If the C library runs a script without `#!` by the shell, it copies the arguments there as well.
const STACK: usize = 64 << 10;

/// Input of the child, and its result.
struct Orders<'a> {
    words: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    /// Part of the environment if sockets were passed.
    listen_pid: Option<&'a ListenPid>,
    inherited: Inherited,
    death_signal: Option<Signal>,
    own_group: bool,
    parent: Pid,
    /// errno if exec failed.
    failure: AtomicI32,
}

/// A variable with its new value, or `None` to remove it.
pub type Variable<'a> = (&'a str, Option<String>);

/// Starts a program found on PATH, with this process's environment changed by `variables`, and
/// otherwise as this process was started: [`Inherited`], and all descriptors that are not
/// close-on-exec. The kernel sends it `death_signal` when this process dies; if this process is
/// dead already, the program is not started: ESRCH. `parent`: this process. `own_group`: the
/// program leads a new process group.
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
    // SAFETY: clone(2) with CLONE_VM and CLONE_VFORK suspends this process until the child has
    // executed or ended, so its arguments outlive their use; the stack is aligned and used by the
    // child only. The child does only what vfork(2) allows: it makes system calls, and allocates
    // nothing.
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

/// Entry point of the child.
extern "C" fn execute(orders: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes its orders, and waits while the child uses them.
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
        // SAFETY: execvpe(3) reads strings and two null-terminated arrays.
        unsafe { libc::execvpe(words[0], words.as_ptr(), environment.as_ptr()) };
        io::Error::last_os_error()
    });
    failure.store(error.raw_os_error().unwrap_or(libc::EINVAL), Relaxed);
    // Only visible if memory is not shared: qemu-user and valgrind make a fork of the call.
    process::exit_now(if error.kind() == io::ErrorKind::NotFound {
        127
    } else {
        126
    })
}

/// This process's environment without these variables and, if sockets were passed to zk-flock,
/// without those that name the process.
pub(super) fn inherited_environment(
    without: &[Variable],
    sockets: bool,
) -> impl Iterator<Item = *const c_char> {
    // SAFETY: environ(7) is a null-terminated array of strings; no code changes it, since `set_var`
    // is not used in this crate.
    let mut next = unsafe { environ };
    let variables = std::iter::from_fn(move || {
        // SAFETY: see above; `next` does not pass the null pointer.
        let variable = unsafe { *next };
        if variable.is_null() {
            return None;
        }
        // SAFETY: the null pointer has not been reached.
        next = unsafe { next.add(1) };
        Some(variable)
    });
    variables.filter(move |&variable| {
        // SAFETY: the entry is a C string.
        let text = unsafe { CStr::from_ptr(variable) }.to_bytes();
        let replaced = without.iter().any(|(name, _)| {
            text.strip_prefix(name.as_bytes())
                .is_some_and(|rest| rest.first() == Some(&b'='))
        });
        !(replaced || sockets && listen_pid::names_process(text))
    })
}

pub(super) fn terminated(pointers: impl Iterator<Item = *const c_char>) -> Vec<*const c_char> {
    pointers.chain([ptr::null()]).collect()
}

#[cfg(test)]
mod tests {
    use super::super::disposition::{self, Disposition};
    use super::super::mask::Mask;
    use super::super::signals::Signals;
    use super::super::testing::check_in_child;
    use super::*;
    use crate::signal::Status;
    use std::env;
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    /// Marks a run of this test as the intermediate program.
    const MIDDLE: &str = "ZK_FLOCK_TEST_MIDDLE";
    const NAME: &str = "sys::spawn::tests::command_starts_in_the_state_of_this_process_on_entry";

    /// Programs that print the state in which they were started. A shell would change its signals,
    /// and grep opens a file if stdin is closed.
    const WITNESSES: [&[&str]; 2] = [
        &["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"],
        &[
            "sh",
            "-c",
            "for fd in 0 1 2; do test -e /proc/$$/fd/$fd && echo $fd open || echo $fd closed; done",
        ],
    ];

    /// The default state.
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

    /// Starts a process in an unusual state: two signals ignored, two blocked, stdin closed.
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
        // SAFETY: the closure makes only async-signal-safe calls.
        unsafe { command.pre_exec(odd) };
        let output = command.stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn command_starts_in_the_state_of_this_process_on_entry() {
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
    fn command_gets_the_environment_with_the_given_changes() {
        let own: Vec<_> = env::vars_os().collect();
        let [replaced, removed] = [0, 1].map(|index| own[index].0.to_str().unwrap());
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
            .unwrap(); // absent during exec
        process::kill(child, Signal::KILL).unwrap();
        process::wait(child).unwrap();
        let kept = own[2..]
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
    fn failed_exec_returns_errno_and_leaves_no_child() {
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
    fn hundred_thousand_arguments_are_passed() {
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
