//! The nodes of a lock: their names, paths and data, for writing and for reading.
//!
//! The nodes of zk-flock are those of the Python zk-flock, and the nodes of lockex those of kazoo's
//! `Lock` and `Semaphore`, so that old and new programs exclude each other. The queue of waiters
//! (`/APP_ID/.queue`) exists only here.

use crate::plan::{BREAKS, QUEUES};
use std::fmt;
use std::time::Duration;

/// The data of an application's node, which the Python zk-flock writes.
pub const APP_NODE_DATA: &[u8] = b"Rootnode";

/// Length of a uuid as text, which ends the data of a lock node.
const UUID_LENGTH: usize = 36;

/// What follows the mark in the name of a contender of kazoo's `Lock`.
const CONTENDER: &str = "__lock__";

/// The same of kazoo's `ReadLock`. A contender waits for it as kazoo's `WriteLock` does.
const READER: &str = "__rlock__";

/// Fewest digits of a sequence number in a contender's name: ZooKeeper writes `%010d`.
const DIGITS: usize = 10;

/// The highest sequence number that is safe. ZooKeeper's counter has 32 bits and continues below
/// zero. kazoo compares the digits as text, so that two of its contenders could then hold the lock.
pub(super) const LAST_SAFE: i64 = (1 << 31) - (1 << 20);

/// The node of an application.
pub(super) fn app_path(chroot: &str, app_id: &str) -> String {
    format!("{chroot}/{app_id}")
}

/// The child of this name.
pub(super) fn child(parent: &str, name: &str) -> String {
    format!("{parent}/{name}")
}

/// The name of a node below `parent`. `None` if the node is elsewhere.
pub(super) fn child_name<'a>(parent: &str, path: &'a str) -> Option<&'a str> {
    path.strip_prefix(parent)?.strip_prefix('/')
}

/// The node above; empty for a node of the root.
pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// The data of a lock node and of a waiter's node of zk-flock: the host name and a uuid, with
/// nothing between them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeData {
    host: String,
    id: String,
}

impl NodeData {
    /// The data of this run, with an id from these random bytes.
    pub fn new(host: String, random: [u8; 16]) -> NodeData {
        NodeData {
            host,
            id: uuid(random),
        }
    }

    /// `None` if the data has another layout.
    pub fn parse(data: &[u8]) -> Option<NodeData> {
        let text = std::str::from_utf8(data).ok()?;
        let (host, id) = text.split_at_checked(text.len().checked_sub(UUID_LENGTH)?)?;
        let dashes = id
            .match_indices('-')
            .map(|(index, _)| index)
            .eq([8, 13, 18, 23]);
        (dashes && !host.is_empty() && !host.contains(char::is_control)).then(|| NodeData {
            host: host.into(),
            id: id.into(),
        })
    }

    /// The name of the host.
    pub fn host(self) -> String {
        self.host
    }
}

impl fmt::Display for NodeData {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}{}", self.host, self.id)
    }
}

/// The container of all queues of an application.
pub(super) fn queues_path(app: &str) -> String {
    child(app, QUEUES)
}

/// The queue of the waiters for the first free of these locks, a node below [`queues_path`]:
/// `NAME`, or `FIRST%..LAST` of several. `%` in a name becomes `%25`, so that no single lock has a
/// queue of the second form.
pub(super) fn queue_name(locks: &[String]) -> String {
    let escaped = |name: &String| name.replace('%', "%25").replace('/', "%2F");
    match locks {
        [first, .., last] => format!("{}%..{}", escaped(first), escaped(last)),
        [name] => escaped(name),
        [] => String::new(),
    }
}

/// The container of the requests to release locks that are children of this node.
pub(super) fn breaks_path(parent: &str) -> String {
    child(parent, BREAKS)
}

/// The request that the holder with this token releases its lock, a node below [`breaks_path`].
/// Every holder has a token of its own, so a request cannot reach the next one.
pub(super) fn break_name(token: i64) -> String {
    token.to_string()
}

/// How the second line of a request begins, which the holder writes as its answer.
const ANSWER: &str = "kill-after ";

/// The second line if the holder sends no KILL.
const NEVER: &str = "inf";

/// Most characters that are shown of the name of an asker: a host name and a user name, with room.
const MAX_ASKER: usize = 200;

/// The data of a request to release a lock: who asks, and below it the answer of the holder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BreakData {
    /// Who asks: `USER@HOST (pid PID)`.
    pub asker: String,
    /// The time that the holder leaves its command between TERM and KILL (`Duration::MAX`: no
    /// KILL), once it has answered.
    pub kill_after: Option<Duration>,
}

impl BreakData {
    /// Reads what a client wrote. Other programs may write anything there.
    pub fn parse(data: &[u8]) -> BreakData {
        let text = String::from_utf8_lossy(data);
        let mut lines = text.lines();
        let asker = lines.next().unwrap_or_default();
        let asker: String = asker
            .chars()
            .filter(|c| !c.is_control())
            .take(MAX_ASKER)
            .collect();
        let answer = lines.next().and_then(|line| line.strip_prefix(ANSWER));
        BreakData {
            asker,
            kill_after: answer.and_then(|answer| match answer {
                NEVER => Some(Duration::MAX),
                seconds => Duration::try_from_secs_f64(seconds.parse().ok()?).ok(),
            }),
        }
    }
}

impl fmt::Display for BreakData {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.asker)?;
        match self.kill_after {
            None => Ok(()),
            Some(Duration::MAX) => write!(f, "\n{ANSWER}{NEVER}"),
            Some(time) => write!(f, "\n{ANSWER}{}", time.as_secs_f64()),
        }
    }
}

/// A waiter's node in a queue of zk-flock: `SESSION-SEQUENCE`, the session in 16 hex digits. Waiters
/// are ordered as they are served.
///
/// The sequence number has 32 bits and continues below zero. At that moment, once, the newest
/// waiters are served first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Waiter<'a> {
    sequence: i32,
    name: &'a str,
}

impl<'a> Waiter<'a> {
    /// How the names of a session's waiters begin. The server appends the sequence number.
    pub(super) fn prefix(session: i64) -> String {
        format!("{session:016x}-")
    }

    /// `None` if the name has another layout.
    pub(super) fn parse(name: &'a str) -> Option<Waiter<'a>> {
        let sequence = name.split_once('-')?.1.parse().ok()?;
        Some(Waiter { sequence, name })
    }

    /// Whether this session made the node.
    pub(super) fn is_of(self, session: i64) -> bool {
        self.name.starts_with(&Waiter::prefix(session))
    }

    /// The name of the node.
    pub(super) fn name(self) -> &'a str {
        self.name
    }
}

/// A contender of kazoo's `Lock`: `MARK__lock__SEQUENCE`. The mark is 32 hex digits, chosen by the
/// client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Contender<'a> {
    /// The digits: kazoo compares them as text.
    pub(super) sequence: &'a str,
}

impl<'a> Contender<'a> {
    /// How the name of a contender begins. The server appends the sequence number.
    pub(super) fn prefix(mark: &str) -> String {
        format!("{mark}{CONTENDER}")
    }

    /// `None` if the name has another layout.
    pub(super) fn parse(name: &'a str) -> Option<Contender<'a>> {
        let (_, sequence) = [CONTENDER, READER]
            .iter()
            .find_map(|kind| name.rsplit_once(kind))?;
        (sequence.len() >= DIGITS && sequence.parse::<i64>().is_ok())
            .then_some(Contender { sequence })
    }

    /// Whether the counter is still far enough from its end.
    pub(super) fn is_safe(self) -> bool {
        let number = self.sequence.parse();
        number.is_ok_and(|number: i64| (0..=LAST_SAFE).contains(&number))
    }
}

/// Whether a node of this name was made with this mark.
pub(super) fn has_mark(name: &str, mark: &str) -> bool {
    name.starts_with(mark)
}

/// A mark from random bytes: 32 hex digits.
pub fn mark(random: [u8; 16]) -> String {
    uuid(random).replace('-', "")
}

/// The data of a contender and of a semaphore's lease, as lockex writes it.
pub fn contender_data(host: &str, pid: impl fmt::Display) -> String {
    format!("{host}:{pid}")
}

/// How a contender or the holder of a lease describes itself. kazoo's clients choose this text.
pub(super) fn contender_text(data: Vec<u8>) -> Option<String> {
    String::from_utf8(data).ok().filter(|text| !text.is_empty())
}

/// The node of the lock which a client of a semaphore holds while it counts leases.
pub(super) fn semaphore_queue_path(semaphore: &str) -> String {
    format!("{semaphore}-__lock__")
}

/// The data of a semaphore's node: how many leases there are.
pub(super) fn permits_data(permits: u32) -> Vec<u8> {
    permits.to_string().into()
}

/// The number of leases in the data of a semaphore's node. `None` if the data is no number.
pub(super) fn permits(data: &[u8]) -> Option<u32> {
    std::str::from_utf8(data).ok()?.trim().parse().ok()
}

/// A random uuid (version 4) as text.
fn uuid(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let number = u128::from_be_bytes(bytes);
    let [a, b, c, d] = [96, 80, 64, 48].map(|shift| number >> shift);
    format!(
        "{a:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        b & 0xffff,
        c & 0xffff,
        d & 0xffff,
        number & 0xffff_ffff_ffff
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANDOM: [u8; 16] = [0xab; 16];

    #[test]
    fn node_data_is_read_back() {
        let data = NodeData::new("web-1.example".into(), RANDOM);
        let written = data.to_string();
        assert_eq!(written, "web-1.exampleabababab-abab-4bab-abab-abababababab");
        assert_eq!(NodeData::parse(written.as_bytes()), Some(data));
    }

    #[test]
    fn node_data_needs_a_host_and_a_uuid() {
        let uuid = uuid(RANDOM);
        for odd in [
            &b""[..],
            b"short",
            b"\xff\xfe",
            uuid.as_bytes(),
            b"no-uuid-at-the-end-of-this-text-which-is-long-enough",
        ] {
            assert_eq!(NodeData::parse(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn paths_are_read_back() {
        let app = app_path("/chroot", "app");
        let lock = child(&app, "lock");
        assert_eq!(lock, "/chroot/app/lock");
        assert_eq!(child_name(&app, &lock), Some("lock"));
        assert_eq!(parent(&lock), app);
        assert_eq!(child_name("/chroot/ap", &lock), None);
        assert_eq!(child_name(&app, &app), None);
        assert_eq!(parent("/lock"), "");
    }

    #[test]
    fn waiters_are_read_back_in_the_order_of_their_numbers() {
        let name = |session, number| format!("{}{number:010}", Waiter::prefix(session));
        let names = [name(7, 12), name(-1, 3), name(0x1_0000_0000, -5)];
        assert_eq!(names[0], "0000000000000007-0000000012");
        let mut waiters: Vec<_> = names
            .iter()
            .map(|name| Waiter::parse(name).unwrap())
            .collect();
        assert!(waiters[0].is_of(7) && !waiters[0].is_of(0x70) && waiters[1].is_of(-1));
        waiters.sort_unstable();
        let sorted: Vec<_> = waiters.iter().map(|waiter| waiter.name()).collect();
        assert_eq!(sorted, [&names[2], &names[1], &names[0]]);
        for odd in ["", "7", "0000000000000007-", "0000000000000007-x"] {
            assert_eq!(Waiter::parse(odd), None, "{odd}");
        }
    }

    #[test]
    fn contenders_are_read_back() {
        let mark = mark(RANDOM);
        assert_eq!(mark, "abababababab4bababababababababab");
        let name = format!("{}{:010}", Contender::prefix(&mark), 7);
        assert!(has_mark(&name, &mark));
        let contender = Contender::parse(&name).unwrap();
        assert_eq!(contender.sequence, "0000000007");
        assert!(contender.is_safe());
        for (name, safe) in [
            (format!("x__rlock__{LAST_SAFE:010}"), true),
            (format!("x__lock__{:010}", LAST_SAFE + 1), false),
            (format!("x__lock__{:010}", -5), false),
        ] {
            assert_eq!(Contender::parse(&name).unwrap().is_safe(), safe, "{name}");
        }
        for odd in ["x__lock__", "x__lock__7", "x__lock__00000000x7", &mark] {
            assert_eq!(Contender::parse(odd), None, "{odd}");
        }
    }

    #[test]
    fn data_of_contenders_and_semaphores_is_read_back() {
        let written = contender_data("web-1", 42);
        assert_eq!(written, "web-1:42");
        assert_eq!(contender_text(written.clone().into()), Some(written));
        assert_eq!(contender_text(vec![]), None);
        assert_eq!(contender_text(vec![0xff]), None);
        assert_eq!(permits(&permits_data(3)), Some(3));
        assert_eq!(permits(b" 3\n"), Some(3));
        assert_eq!(permits(b""), None);
        assert_eq!(semaphore_queue_path("/lockex/id"), "/lockex/id-__lock__");
    }

    #[test]
    fn requests_to_release_are_read_back_with_and_without_an_answer() {
        for (kill_after, written) in [
            (None, "root@adm1 (pid 7)"),
            (
                Some(Duration::from_millis(1500)),
                "root@adm1 (pid 7)\nkill-after 1.5",
            ),
            (Some(Duration::MAX), "root@adm1 (pid 7)\nkill-after inf"),
        ] {
            let data = BreakData {
                asker: "root@adm1 (pid 7)".into(),
                kill_after,
            };
            assert_eq!(data.to_string(), written);
            assert_eq!(BreakData::parse(written.as_bytes()), data);
        }
    }

    #[test]
    fn requests_of_other_programs_are_read_without_their_control_characters() {
        for (data, asker) in [
            (&b""[..], ""),
            (b"\x1b[31mred", "[31mred"),
            (b"me\nkill-after soon", "me"),
            (b"me\nkill-after -1", "me"),
            (b"me\nkill-after 1e300", "me"),
            (b"me\nkill-after nan", "me"),
            (b"\xff", "\u{fffd}"),
        ] {
            let expected = BreakData {
                asker: asker.into(),
                kill_after: None,
            };
            assert_eq!(BreakData::parse(data), expected, "{data:?}");
        }
        let long = BreakData::parse("x".repeat(5000).as_bytes()).asker;
        assert_eq!(long.len(), MAX_ASKER);
        assert_eq!(
            child(&breaks_path("/app"), &break_name(42)),
            "/app/.break/42"
        );
    }

    #[test]
    fn queues_of_different_locks_have_different_names() {
        let name = |locks: &[&str]| {
            let locks: Vec<_> = locks.iter().map(|&lock| lock.to_string()).collect();
            queue_name(&locks)
        };
        assert_eq!(name(&["job"]), "job");
        assert_eq!(name(&["job_0", "job_1", "job_2"]), "job_0%..job_2");
        assert_eq!(name(&["job_0%..job_2"]), "job_0%25..job_2");
        assert_eq!(name(&["a/b"]), "a%2Fb");
        assert_eq!(
            child(&queues_path("/app"), &name(&["job"])),
            "/app/.queue/job"
        );
    }
}
