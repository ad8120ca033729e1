//! Clocks: time since boot for deadlines, local time for log lines, the load average for the load
//! limit.

use super::check;
use crate::moment::Moment;
use std::fmt;
use std::mem::MaybeUninit;
use std::time::{Duration, SystemTime};

/// Time since the host booted, including suspend.
pub fn since_boot() -> Duration {
    read(libc::CLOCK_BOOTTIME)
}

/// Reads a clock. No kernel that this runs on makes it panic.
fn read(clock: libc::clockid_t) -> Duration {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: clock_gettime(2) fills the one timespec that it is given.
    check(unsafe { libc::clock_gettime(clock, &raw mut now) })
        .expect("CLOCK_BOOTTIME and CLOCK_MONOTONIC are there since Linux 2.6.39");
    Duration::new(
        now.tv_sec.cast_unsigned(),
        u32::try_from(now.tv_nsec).expect("the kernel counts nanoseconds below 10^9"),
    )
}

/// The current time. The loops read it and pass it to the pure code.
pub fn now() -> Moment {
    Moment(since_boot())
}

/// The kernel's random id of this boot, as text. `None` without /proc/sys.
pub fn boot_id() -> Option<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .ok()
        .map(|id| id.trim_end().to_owned())
}

/// Converts a duration to a timespec. A duration beyond the kernel's range becomes the largest.
pub(super) fn timespec(duration: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

/// A wall clock reading in the host's time zone; month and day count from 1. Shown as ISO 8601 with
/// zone: `2026-11-21T09:24:00+01:00`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub struct LocalTime {
    pub year: i32,
    pub month: i32,
    pub day: i32,
    pub hour: i32,
    pub minute: i32,
    pub second: i32,
    /// Seconds that the zone is east of UTC at this time.
    pub utc_offset: i64,
}

impl fmt::Display for LocalTime {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let LocalTime {
            year,
            month,
            day,
            hour,
            minute,
            second,
            utc_offset,
        } = self;
        let (sign, minutes_east) = (
            if *utc_offset < 0 { '-' } else { '+' },
            utc_offset.abs() / 60,
        );
        let zone = format_args!("{sign}{:02}:{:02}", minutes_east / 60, minutes_east % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{zone}"
        )
    }
}

/// Converts seconds since 1970 to local time. A year beyond the range of `tm` gives the first
/// second of 1970.
pub fn local_time(unix_seconds: i64) -> LocalTime {
    let mut broken_down = MaybeUninit::uninit();
    // SAFETY: localtime_r(3) reads the seconds and fills the struct; nothing here changes the
    // environment that it reads TZ from.
    let filled = unsafe { libc::localtime_r(&raw const unix_seconds, broken_down.as_mut_ptr()) };
    // SAFETY: localtime_r returns null or its second argument, which it has filled and which
    // outlives this use.
    let Some(tm) = (unsafe { filled.as_ref() }) else {
        return LocalTime {
            year: 1970,
            month: 1,
            day: 1,
            hour: 0,
            minute: 0,
            second: 0,
            utc_offset: 0,
        };
    };
    LocalTime {
        year: tm.tm_year + 1900,
        month: tm.tm_mon + 1,
        day: tm.tm_mday,
        hour: tm.tm_hour,
        minute: tm.tm_min,
        second: tm.tm_sec,
        utc_offset: tm.tm_gmtoff,
    }
}

/// `CLOCK_MONOTONIC`, which stops while the host is suspended: only for messages to systemd.
pub fn monotonic() -> Duration {
    read(libc::CLOCK_MONOTONIC)
}

/// The wall clock: the time since 1970.
pub fn unix_time() -> Duration {
    let elapsed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    elapsed.unwrap_or_default()
}

/// The same in ms.
pub fn unix_ms() -> i64 {
    i64::try_from(unix_time().as_millis()).unwrap_or(i64::MAX)
}

/// A wall clock reading in ms as RFC 3339, in the host's time zone: `2026-11-30T03:12:28+01:00`.
pub fn rfc3339(unix_ms: i64) -> String {
    local_time(unix_ms.div_euclid(1000)).to_string()
}

/// The one-minute load average. It is read from the file because lxcfs gives a container its own.
/// `None` without /proc.
pub fn load_average() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg")
        .ok()?
        .split(' ')
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn boot_id_is_a_uuid_and_does_not_change() {
        let id = boot_id().unwrap();
        assert_eq!((id.len(), boot_id()), (36, Some(id)));
    }

    #[test]
    fn time_since_boot_is_monotonic_and_matches_proc_uptime() {
        let first = since_boot();
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        assert!(
            (first.as_secs_f64() - uptime).abs() < 60.0,
            "{first:?} {uptime}"
        );
        assert!(since_boot() >= first);
    }

    #[test]
    fn local_time_is_shown_as_iso_8601_with_the_zone_of_date() {
        for seconds in [0, 951_782_400, 1_700_000_000, 1_720_000_000, 4_102_444_799] {
            let date = Command::new("date")
                .args(["-d", &format!("@{seconds}"), "--iso-8601=seconds"])
                .output()
                .unwrap();
            let shown = format!("{}\n", local_time(seconds));
            assert_eq!(shown, String::from_utf8(date.stdout).unwrap());
        }
        for (utc_offset, zone) in [(20_700, "+05:45"), (-12_600, "-03:30"), (0, "+00:00")] {
            let time = LocalTime {
                utc_offset,
                ..local_time(0)
            };
            assert!(time.to_string().ends_with(zone), "{time}");
        }
        assert_eq!(local_time(i64::MAX).year, 1970);
    }

    #[test]
    fn load_average_is_read() {
        assert!(load_average().unwrap() >= 0.0);
    }

    #[test]
    fn duration_beyond_the_kernels_range_is_clamped() {
        assert_eq!(timespec(Duration::MAX).tv_sec, i64::MAX);
    }
}
