//! A deadline as a descriptor: timerfd on `CLOCK_BOOTTIME`, absolute, since poll's own timeout
//! stops while the host is suspended. Kernels before 3.15 refuse that clock; there poll is to wake
//! up often enough.

use super::clock::timespec;
use super::{check, opened};
use crate::moment::Moment;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;
use std::time::Duration;

/// Longest sleep in poll where no timer can wake it: so late at most is a deadline seen after a
/// suspend.
const LONGEST_BLIND_SLEEP: Duration = Duration::from_millis(200);

/// Wakes poll at one moment.
#[derive(Debug)]
pub struct Timer {
    /// `None` where the kernel has no such timer.
    file: Option<File>,
    armed: Option<Moment>,
}

impl Timer {
    /// A timer that is not armed.
    pub fn new() -> io::Result<Timer> {
        // SAFETY: timerfd_create(2) touches no memory.
        let file = match opened(unsafe {
            libc::timerfd_create(libc::CLOCK_BOOTTIME, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC)
        }) {
            Ok(fd) => Some(File::from(fd)),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => None,
            Err(error) => return Err(error),
        };
        Ok(Timer { file, armed: None })
    }

    /// Fires at `at`, and at once if that is past; `None` disarms. Costs
    /// nothing when nothing changes.
    pub fn set(&mut self, at: Option<Moment>) {
        if self.armed == at {
            return;
        }
        self.armed = at;
        // A timer that cannot be set is as good as none: poll then wakes by itself.
        self.file.take_if(|file| arm(file, at).is_err());
    }

    /// Fires at `at` or before: a timer that is armed for earlier is left as it is. Where there is
    /// none to fire, and be cleared, that is `set`.
    pub fn set_by(&mut self, at: Option<Moment>) {
        if self.file.is_none() || at.is_some_and(|at| self.armed.is_none_or(|armed| at < armed)) {
            self.set(at);
        }
    }

    /// To be called when poll has found the descriptor ready: after it fired, the timer is no
    /// longer armed.
    pub fn clear(&mut self) {
        let mut expirations = [0; 8];
        if self
            .file
            .as_ref()
            .is_some_and(|mut file| file.read(&mut expirations).is_ok())
        {
            self.armed = None;
        }
    }

    /// To be watched for reading. `None` where `poll_limit` does the work.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// How long poll may sleep from `now`; `None` if the descriptor takes care of
    /// that, or nothing is armed.
    pub fn poll_limit(&self, now: Moment) -> Option<Duration> {
        match self.file {
            Some(_) => None,
            None => self.armed.map(|at| at.since(now).min(LONGEST_BLIND_SLEEP)),
        }
    }
}

/// Arms or disarms a timerfd.
fn arm(file: &File, at: Option<Moment>) -> io::Result<()> {
    // All zeros would disarm it.
    let value = at.map_or(Duration::ZERO, |at| at.0.max(Duration::from_nanos(1)));
    let setting = libc::itimerspec {
        it_interval: timespec(Duration::ZERO),
        it_value: timespec(value),
    };
    // SAFETY: timerfd_settime(2) reads one itimerspec; a null pointer says that the old setting is
    // not wanted.
    check(unsafe {
        libc::timerfd_settime(
            file.as_raw_fd(),
            libc::TFD_TIMER_ABSTIME,
            &raw const setting,
            ptr::null_mut(),
        )
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::clock::now;
    use super::super::poll::{Watched, wait};
    use super::super::testing::{check_in_child, refuse};
    use super::*;

    /// Whether the timer fires within `limit`.
    fn fires(timer: &Timer, limit: Duration) -> bool {
        let mut watched = [Watched::new(timer.fd().unwrap(), false)];
        wait(&mut watched, Some(limit)).unwrap();
        watched[0].ready()
    }

    const BOOT: Moment = Moment(Duration::ZERO);
    const SOON: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_deadline_fires_once_and_not_early() {
        let mut timer = Timer::new().unwrap();
        let at = now() + SOON;
        timer.set(Some(at));
        assert!(fires(&timer, LONG));
        assert!(now() >= at);
        timer.clear();
        assert!(!fires(&timer, Duration::ZERO));
    }

    #[test]
    fn a_deadline_that_is_past_fires_at_once_however_often_it_is_set() {
        let mut timer = Timer::new().unwrap();
        for at in [BOOT, now(), now()] {
            timer.set(Some(at));
            assert!(fires(&timer, LONG), "{at:?}");
            timer.clear();
            timer.set(Some(at));
            assert!(fires(&timer, LONG), "{at:?} again");
        }
    }

    #[test]
    fn a_timer_set_by_a_moment_fires_no_later() {
        let mut timer = Timer::new().unwrap();
        let at = now() + SOON;
        for by in [Some(at), Some(at + LONG), None] {
            timer.set_by(by);
            assert_eq!(timer.armed, Some(at));
        }
        assert!(fires(&timer, LONG));
        timer.clear();
        timer.set_by(Some(at + LONG));
        timer.set_by(Some(at));
        assert_eq!(timer.armed, Some(at));
    }

    #[test]
    fn without_the_clock_a_moment_that_is_past_keeps_nobody_awake() {
        check_in_child(|| {
            refuse(&[(libc::SYS_timerfd_create, libc::EINVAL)]);
            let mut timer = Timer::new().unwrap();
            timer.set_by(Some(BOOT + SOON));
            assert_eq!(timer.poll_limit(BOOT + LONG), Some(Duration::ZERO));
            timer.set_by(Some(BOOT + LONG + SOON));
            assert_eq!(timer.poll_limit(BOOT + LONG), Some(SOON));
            timer.set_by(None);
            assert_eq!(timer.poll_limit(BOOT + LONG), None);
        });
    }

    #[test]
    fn a_timer_disarmed_or_set_to_the_end_of_time_does_not_fire() {
        let mut timer = Timer::new().unwrap();
        for at in [None, Some(Moment::NEVER)] {
            timer.set(Some(BOOT));
            timer.set(at);
            assert!(!fires(&timer, SOON), "{at:?}");
            timer.clear();
            assert_eq!(timer.armed, at, "it has not fired");
        }
    }

    #[test]
    fn without_the_clock_poll_wakes_by_itself() {
        check_in_child(|| {
            refuse(&[(libc::SYS_timerfd_create, libc::EINVAL)]);
            let mut timer = Timer::new().unwrap();
            assert!(timer.fd().is_none());
            let now = BOOT + Duration::from_secs(100);
            assert_eq!(timer.poll_limit(now), None);
            for (in_ms, sleep_ms) in [(0, 0), (150, 150), (5000, 200)] {
                timer.set(Some(now + Duration::from_millis(in_ms)));
                assert_eq!(timer.poll_limit(now), Some(Duration::from_millis(sleep_ms)));
            }
            assert_eq!(timer.poll_limit(now + LONG), Some(Duration::ZERO));
        });
    }

    #[test]
    fn a_timer_that_cannot_be_set_leaves_the_work_to_poll() {
        check_in_child(|| {
            let mut timer = Timer::new().unwrap();
            refuse(&[(libc::SYS_timerfd_settime, libc::EINVAL)]);
            timer.set(Some(BOOT + LONG));
            assert_eq!(timer.poll_limit(BOOT + LONG), Some(Duration::ZERO));
        });
    }

    #[test]
    fn with_the_clock_poll_may_sleep() {
        let mut timer = Timer::new().unwrap();
        timer.set(Some(now()));
        assert_eq!(timer.poll_limit(now()), None);
    }
}
