//! A deadline as a descriptor: timerfd on `CLOCK_BOOTTIME`, absolute, because poll's own timeout
//! stops while the host is suspended. Kernels before 3.15 reject that clock; there poll wakes up
//! often enough.

use super::clock::timespec;
use super::{check, opened};
use crate::moment::Moment;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;
use std::time::Duration;

/// Longest sleep in poll without a timer: after a suspend, a deadline is noticed at most this late.
const MAX_SLEEP_WITHOUT_TIMER: Duration = Duration::from_millis(200);

/// Wakes poll at one moment.
#[derive(Debug)]
pub struct Timer {
    /// `None` if the kernel has no such timer.
    file: Option<File>,
    armed: Option<Moment>,
}

impl Timer {
    /// Creates a timer that is not armed.
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

    /// Fires at `at`, or at once if that is past; `None` disarms. Makes no system call if nothing
    /// changes.
    pub fn set(&mut self, at: Option<Moment>) {
        if self.armed == at {
            return;
        }
        self.armed = at;
        // A timer that cannot be set is dropped: poll then wakes by itself.
        self.file.take_if(|file| arm(file, at).is_err());
    }

    /// Fires at `at` or earlier: a timer that is armed for an earlier moment is left as it is.
    /// Without a timer descriptor, the same as `set`.
    pub fn set_by(&mut self, at: Option<Moment>) {
        if self.file.is_none() || at.is_some_and(|at| self.armed.is_none_or(|armed| at < armed)) {
            self.set(at);
        }
    }

    /// Call this when poll has found the descriptor ready: after it fired, the timer is no longer
    /// armed.
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

    /// The descriptor to watch for reading. `None` if `poll_limit` replaces it.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// How long poll may sleep from `now`; `None` if the descriptor wakes it, or nothing is armed.
    pub fn poll_limit(&self, now: Moment) -> Option<Duration> {
        match self.file {
            Some(_) => None,
            None => self
                .armed
                .map(|at| at.since(now).min(MAX_SLEEP_WITHOUT_TIMER)),
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
    // SAFETY: timerfd_settime(2) reads one itimerspec; with a null pointer it does not return the
    // old setting.
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
    fn deadline_fires_once_and_not_early() {
        let mut timer = Timer::new().unwrap();
        let at = now() + SOON;
        timer.set(Some(at));
        assert!(fires(&timer, LONG));
        assert!(now() >= at);
        timer.clear();
        assert!(!fires(&timer, Duration::ZERO));
    }

    #[test]
    fn past_deadline_fires_at_once_each_time_it_is_set() {
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
    fn timer_set_by_a_moment_fires_no_later() {
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
    fn without_the_clock_a_later_moment_replaces_a_past_one() {
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
    fn disarmed_timer_and_never_do_not_fire() {
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
    fn timer_that_cannot_be_set_falls_back_to_poll() {
        check_in_child(|| {
            let mut timer = Timer::new().unwrap();
            refuse(&[(libc::SYS_timerfd_settime, libc::EINVAL)]);
            timer.set(Some(BOOT + LONG));
            assert_eq!(timer.poll_limit(BOOT + LONG), Some(Duration::ZERO));
        });
    }

    #[test]
    fn with_the_clock_poll_has_no_limit() {
        let mut timer = Timer::new().unwrap();
        timer.set(Some(now()));
        assert_eq!(timer.poll_limit(now()), None);
    }
}
