//! Detaching from terminal and caller.

use super::process::{self, Fork};
use super::{check, descriptors, entry};
use std::ffi::c_int;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

/// Goes on as a process of a new session, without a terminal, in `/`, with /dev/null for stdio and
/// no other inherited descriptor. The process that was called leaves with 0; an error is told
/// before that as far as it can be. The umask is left alone: daemon(3)'s zero would make a job's
/// files world-writable.
pub fn detach() -> io::Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = null
        .map_err(|error| io::Error::new(error.kind(), format!("cannot open /dev/null: {error}")))?;
    go_on_in_child()?;
    // SAFETY: setsid(2) touches no memory.
    check(unsafe { libc::setsid() })?;
    // The leader of a session gets a terminal by opening one; its child does not.
    go_on_in_child()?;
    std::env::set_current_dir("/")?;
    (0..=2).try_for_each(|fd| replace(fd, &null))?;
    entry::stdio_is_settled();
    descriptors::close_inherited();
    Ok(())
}

fn go_on_in_child() -> io::Result<()> {
    match process::fork()? {
        Fork::Child => Ok(()),
        Fork::Parent(_) => process::leave(0),
    }
}

/// Makes a stdio descriptor stand for `file`.
fn replace(stdio: c_int, file: &File) -> io::Result<()> {
    // SAFETY: dup2(2) touches no memory, and std lends 0 to 2 to everybody: they stay open, as
    // something else.
    check(unsafe { libc::dup2(file.as_raw_fd(), stdio) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::check_in_child;
    use super::super::{poll, socket};
    use super::*;
    use std::fs::read_link;
    use std::os::fd::AsFd;

    #[test]
    fn a_daemon_has_its_own_session_the_root_directory_and_no_stdio() {
        let (ours, theirs) = socket::pair().unwrap();
        check_in_child(|| {
            // SAFETY: getsid(2) touches no memory.
            let session = || unsafe { libc::getsid(0) };
            let before = session();
            detach().unwrap();
            let stdio = [0, 1, 2].map(|fd| {
                read_link(format!("/proc/self/fd/{fd}"))
                    .unwrap()
                    .display()
                    .to_string()
            });
            let cwd = std::env::current_dir().unwrap();
            let in_another_session = session() != before && session() != process::own_pid().0;
            let facts = format!("{stdio:?} {} {in_another_session}", cwd.display());
            socket::send(&theirs, facts.as_bytes()).unwrap();
        });
        let mut facts = [0; 256];
        poll::wait(&mut [poll::Watched::new(ours.as_fd(), false)], None).unwrap();
        let length = socket::receive(&ours, &mut facts).unwrap();
        assert_eq!(
            str::from_utf8(&facts[..length]).unwrap(),
            r#"["/dev/null", "/dev/null", "/dev/null"] / true"#
        );
    }
}
