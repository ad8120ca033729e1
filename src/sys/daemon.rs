//! Detaching from the terminal and the caller.

use super::process::{self, Fork};
use super::{check, descriptors, entry};
use std::ffi::c_int;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

/// Continues in a child process with a new session, without a terminal, in `/`, with /dev/null as
/// stdio and no other inherited descriptor. The original process exits with 0; errors are returned
/// before that, as far as possible. The umask stays: daemon(3) sets it to zero, and the command's
/// files would be world-writable.
pub fn detach() -> io::Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = null
        .map_err(|error| io::Error::new(error.kind(), format!("cannot open /dev/null: {error}")))?;
    go_on_in_child()?;
    // SAFETY: setsid(2) touches no memory.
    check(unsafe { libc::setsid() })?;
    // A session leader gets a controlling terminal by opening one; its child does not.
    go_on_in_child()?;
    std::env::set_current_dir("/")?;
    (0..=2).try_for_each(|fd| replace(fd, &null))?;
    entry::forget_closed_stdio();
    descriptors::close_inherited();
    Ok(())
}

fn go_on_in_child() -> io::Result<()> {
    match process::fork()? {
        Fork::Child => Ok(()),
        Fork::Parent(_) => process::exit_now(0),
    }
}

/// Makes a stdio descriptor refer to `file`.
fn replace(stdio: c_int, file: &File) -> io::Result<()> {
    // SAFETY: dup2(2) touches no memory. std lends 0 to 2 to all code; they stay open and refer to
    // another file.
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
    fn daemon_has_its_own_session_root_directory_and_null_stdio() {
        let (local, remote) = socket::pair().unwrap();
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
            socket::send(&remote, facts.as_bytes()).unwrap();
        });
        let mut facts = [0; 256];
        poll::wait(&mut [poll::Watched::new(local.as_fd(), false)], None).unwrap();
        let length = socket::receive(&local, &mut facts).unwrap();
        assert_eq!(
            str::from_utf8(&facts[..length]).unwrap(),
            r#"["/dev/null", "/dev/null", "/dev/null"] / true"#
        );
    }
}
