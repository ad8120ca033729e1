//! What a service manager is told of a run, and how: `--notify`, and the variables of
//! sd_notify(3) and sd_watchdog_enabled(3).

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

/// The variables by which a service manager asks for messages. A command must not take those that
/// are meant for the run that has started it.
pub const VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// The messages of a run to its service manager.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Notify {
    /// Where the service manager receives them; `None`: there is none, or it has asked for none.
    pub manager: Option<Manager>,
    /// Report readiness when the run waits for the lock, and not only when its command has started.
    pub ready_when_waiting: bool,
    /// The command keeps the variables.
    pub pass: bool,
}

/// A service manager that has asked for messages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manager {
    /// Its socket: an absolute path, or `@` and an abstract name.
    pub socket: OsString,
    /// It kills a process that is silent for this long.
    pub watchdog: Option<Duration>,
    /// The process that the watchdog is meant for; `None`: any.
    pub watchdog_pid: Option<i32>,
}

impl Manager {
    /// The service manager that has set these variables. `Err`: its socket is of a kind that is not
    /// known.
    pub fn of(
        socket: Option<&OsString>,
        watchdog_usec: Option<&OsString>,
        watchdog_pid: Option<&OsString>,
    ) -> Result<Option<Manager>, OsString> {
        let Some(socket) = socket.filter(|socket| !socket.is_empty()) else {
            return Ok(None);
        };
        if !matches!(socket.as_bytes(), [b'/' | b'@', _, ..]) {
            return Err(socket.clone());
        }
        let number = |text: Option<&OsString>| text?.to_str()?.parse::<u64>().ok();
        Ok(Some(Manager {
            socket: socket.clone(),
            watchdog: number(watchdog_usec)
                .filter(|&usec| usec > 0)
                .map(Duration::from_micros),
            watchdog_pid: number(watchdog_pid).map(|pid| i32::try_from(pid).unwrap_or(i32::MAX)),
        }))
    }

    /// How long the process `own` may be silent: the watchdog may be meant for another.
    pub fn watchdog_of(&self, own: i32) -> Option<Duration> {
        self.watchdog
            .filter(|_| self.watchdog_pid.is_none_or(|pid| pid == own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(socket: &str, usec: &str, pid: &str) -> Result<Option<Manager>, OsString> {
        let [socket, usec, pid] =
            [socket, usec, pid].map(|text| (!text.is_empty()).then(|| OsString::from(text)));
        Manager::of(socket.as_ref(), usec.as_ref(), pid.as_ref())
    }

    #[test]
    fn socket_is_a_path_or_an_abstract_name() {
        for socket in ["/run/systemd/notify", "@abstract"] {
            let found = manager(socket, "", "").unwrap().unwrap();
            assert_eq!(found.socket, socket);
        }
        assert_eq!(manager("", "30000000", ""), Ok(None));
        for socket in ["vsock:2:1234", "notify", "@", "/"] {
            assert_eq!(manager(socket, "", ""), Err(socket.into()), "{socket}");
        }
    }

    #[test]
    fn watchdog_counts_only_for_the_process_that_it_names() {
        let second = Some(Duration::from_secs(1));
        for (usec, pid, expected) in [
            ("1000000", "", second),
            ("1000000", "7", second),
            ("1000000", "8", None),
            ("0", "7", None),
            ("", "7", None),
            ("soon", "7", None),
        ] {
            let found = manager("@x", usec, pid).unwrap().unwrap();
            assert_eq!(found.watchdog_of(7), expected, "{usec:?} {pid:?}");
        }
    }
}
