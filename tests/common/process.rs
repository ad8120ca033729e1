//! Processes as the kernel shows them in /proc, and signals to them.

#![allow(unsafe_code, reason = "kill(2)")]

use std::fs;
use std::time::Duration;

/// No process.
pub const NONE: [i32; 0] = [];

/// This process, the test's.
pub fn own() -> i32 {
    i32::try_from(std::process::id()).expect("a pid is below 2^22")
}

/// Sends a signal. False if the process does not exist.
pub fn kill(pid: i32, signal: i32) -> bool {
    assert!(pid > 0, "{pid} is not one process");
    // SAFETY: kill takes two integers and touches no memory.
    unsafe { libc::kill(pid, signal) == 0 }
}

/// Whether it exists and is not a zombie.
pub fn alive(pid: i32) -> bool {
    !matches!(state(pid), None | Some('Z' | 'X'))
}

/// One letter, as `ps` shows it: `S` sleeping, `T` stopped, `Z` a zombie. `None`: no such process.
pub fn state(pid: i32) -> Option<char> {
    stat(pid)?.first()?.chars().next()
}

/// Its parent.
pub fn parent(pid: i32) -> Option<i32> {
    stat(pid)?.get(1)?.parse().ok()
}

/// Its process group.
pub fn group(pid: i32) -> Option<i32> {
    stat(pid)?.get(2)?.parse().ok()
}

/// Whether its session has a controlling terminal.
pub fn has_terminal(pid: i32) -> bool {
    stat(pid)
        .and_then(|fields| fields.get(4).cloned())
        .is_some_and(|device| device != "0")
}

/// The name that `ps -o comm` shows.
pub fn name(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm"))
        .unwrap_or_default()
        .trim_end()
        .to_owned()
}

/// The words that `ps -o args` shows, with spaces between.
pub fn words(pid: i32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line)
        .replace('\0', " ")
        .trim_end()
        .to_owned()
}

/// A line of /proc/PID/status: `VmHWM`, `SigIgn`.
pub fn status(pid: i32, key: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
        .map(|value| value.trim().to_owned())
}

/// Its processor time, without that of its children.
pub fn cpu(pid: i32) -> Option<Duration> {
    let fields = stat(pid)?;
    let ticks = |field: usize| fields.get(field)?.parse::<u64>().ok();
    Some(Duration::from_millis((ticks(11)? + ticks(12)?) * 10)) // utime and stime, in USER_HZ
}

/// Whether it ignores a signal.
pub fn ignores(pid: i32, signal: i32) -> bool {
    let mask = status(pid, "SigIgn").expect("the process is there");
    u64::from_str_radix(&mask, 16).expect("a mask is hexadecimal") & (1 << (signal - 1)) != 0
}

/// Whether the kernel shows the locks of all processes here: outside the process namespace of the
/// host, which has this number (`PROC_PID_INIT_INO`), it shows only some.
pub fn shows_all_locks() -> bool {
    fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link.as_os_str() == "pid:[4026531836]")
}

/// All processes of the machine.
pub fn all() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// Its children, zombies included.
pub fn children(pid: i32) -> Vec<i32> {
    all().filter(|&child| parent(child) == Some(pid)).collect()
}

/// The fields of /proc/PID/stat after the name, which may itself hold spaces and brackets.
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split(' ').map(str::to_owned).collect())
}
