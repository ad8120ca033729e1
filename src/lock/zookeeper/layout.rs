//! The nodes of a lock: their names, paths and data, for writing and for reading.
//!
//! The nodes of zk-flock are those of the Python zk-flock, and the nodes of lockex those of kazoo's
//! `Lock` and `Semaphore`, so that old and new programs exclude each other. The queue of waiters
//! (`.queue`), the records of last runs (`.runs`) and the requests to release (`.break`) exist only
//! here.

use crate::plan::{BREAKS, CHECK, QUEUES, RUNS, Sharing};
use crate::printable::printable;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The data of an application's node, which the Python zk-flock writes.
pub const APP_NODE_DATA: &[u8] = b"Rootnode";

/// Length of a uuid as text, which ends the data of a lock node.
const UUID_LENGTH: usize = 36;

/// Children of an application's node, and of a lock path, that are no locks: the queues, the times
/// of last runs, requests to release a lock, and what `--check` tries.
const RESERVED: [&str; 4] = [QUEUES, BREAKS, RUNS, CHECK];

/// Length of a mark: 32 hex digits.
const MARK_LENGTH: usize = 32;

/// What stands between the first and the last name in the name of a queue for several locks.
const RANGE: &str = "%..";

/// What follows the mark in the name of a contender of kazoo's `Lock`.
const CONTENDER: &str = "__lock__";

/// The same of kazoo's `ReadLock`. Only kazoo's `WriteLock` waits for it: its `Lock` does not, nor
/// does the original lockex.
const KAZOO_READER: &str = "__rlock__";

/// The same of a reader of lockex. It ends as [`CONTENDER`] does, so every version of kazoo takes it
/// for a contender of its `Lock`, and waits for it. No name does that for `Lock` and lets `ReadLock`
/// pass: both look for the same names.
const READER: &str = "__rlock____lock__";

/// Fewest digits of a sequence number in a contender's name: ZooKeeper writes `%010d`.
const DIGITS: usize = 10;

/// The highest sequence number that is safe. ZooKeeper's counter has 32 bits and continues below
/// zero. kazoo compares the digits as text, so that two of its contenders could then hold the lock.
pub const LAST_SAFE: i64 = (1 << 31) - (1 << 20);

/// The node of an application.
pub fn app_path(chroot: &str, app_id: &str) -> String {
    format!("{chroot}/{app_id}")
}

/// The child of this name.
pub fn child(parent: &str, name: &str) -> String {
    format!("{parent}/{name}")
}

/// The name of a node below `parent`. `None` if the node is elsewhere.
pub fn child_name<'a>(parent: &str, path: &'a str) -> Option<&'a str> {
    path.strip_prefix(parent)?.strip_prefix('/')
}

/// The node above; empty for a node of the root.
pub fn parent(path: &str) -> &str {
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
    /// The data of the run of this process, with an id from these random bytes.
    pub fn new(host: String, random: [u8; 16], pid: u32) -> NodeData {
        NodeData {
            host,
            id: uuid_with_pid(random, pid),
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
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The process, if the uuid has it. The Python zk-flock and earlier versions write random ones.
    pub fn pid(&self) -> Option<u32> {
        pid_of(&self.id)
    }
}

impl fmt::Display for NodeData {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}{}", self.host, self.id)
    }
}

/// The container of all queues of an application.
pub fn queues_path(app: &str) -> String {
    child(app, QUEUES)
}

/// The queue of the waiters for the first free of these locks, a node below [`queues_path`]:
/// `NAME`, or `FIRST%..LAST` of several. `%` in a name becomes `%25`, so that no single lock has a
/// queue of the second form.
pub fn queue_name(locks: &[String]) -> String {
    match locks {
        [first, .., last] => format!("{}{RANGE}{}", escaped(first), escaped(last)),
        [name] => escaped(name),
        [] => String::new(),
    }
}

/// The record of the last run of the lock of this name below `parent`. A name has no slash in it:
/// the containers of records have no container below them.
pub fn record_path(parent: &str, name: &str) -> String {
    child(&runs_path(parent), &escaped(name))
}

/// The record of the last run of the lock at this path.
pub fn record_of(lock: &str) -> String {
    record_path(parent(lock), lock.rsplit('/').next().unwrap_or(lock))
}

/// The container of the records of locks that are children of this node.
pub fn runs_path(parent: &str) -> String {
    child(parent, RUNS)
}

/// Whether this is such a container.
pub fn is_runs(path: &str) -> bool {
    path.rsplit('/').next() == Some(RUNS)
}

/// The container of the requests to release locks that are children of this node.
pub fn breaks_path(parent: &str) -> String {
    child(parent, BREAKS)
}

/// The request that the holder with this token releases its lock, a node below [`breaks_path`].
/// Every holder has a token of its own, so a request cannot reach the next one.
pub fn break_name(token: i64) -> String {
    token.to_string()
}

/// How the second line of a request begins, which the holder writes as its answer.
const ANSWER: &str = "kill-after ";

/// The second line if the holder sends no KILL.
const NEVER: &str = "inf";

/// Most characters that are shown of the name of an asker: a host name and a user name, with room.
const MAX_ASKER: usize = 200;

/// The data of a request to release a lock: its asker, and below it the answer of the holder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BreakData {
    /// The user and process that ask: `USER@HOST (pid PID)`.
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
        let asker = printable(asker).chars().take(MAX_ASKER).collect();
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

/// The locks that the waiters of a queue want.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// The lock of this name.
    One(String),
    /// The first free of the locks `STEM_NUMBER` with these numbers.
    Numbered {
        /// What stands before the `_`.
        stem: String,
        /// The numbers.
        numbers: RangeInclusive<u32>,
    },
}

/// The locks that the waiters of a queue of this name want; `None`: names without numbers, which
/// are not known.
pub fn wanted(queue: &str) -> Option<Wanted> {
    let Some((first, last)) = queue.split_once(RANGE) else {
        return Some(Wanted::One(unescaped(queue)));
    };
    let [first, last] = [first, last].map(unescaped);
    let ((stem, from), (other, to)) = (numbered(&first)?, numbered(&last)?);
    (stem == other).then(|| Wanted::Numbered {
        stem: stem.to_owned(),
        numbers: from..=to,
    })
}

/// The stem and the number of a lock `STEM_NUMBER`.
pub fn numbered(lock: &str) -> Option<(&str, u32)> {
    let (stem, number) = lock.rsplit_once('_')?;
    Some((stem, number.parse().ok()?))
}

fn escaped(name: &str) -> String {
    name.replace('%', "%25").replace('/', "%2F")
}

/// The name of a lock, from the name of its queue or of its record.
pub fn unescaped(name: &str) -> String {
    name.replace("%2F", "/").replace("%25", "%")
}

/// Whether a node of this name, next to locks, is no lock.
pub fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name) || name.ends_with(&semaphore_queue_path(""))
}

/// Whether a node of this name may be the lease of a semaphore: kazoo names it by a mark.
pub fn is_lease(name: &str) -> bool {
    name.len() == MARK_LENGTH && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A waiter's node in a queue of zk-flock: `SESSION-SEQUENCE`, the session in 16 hex digits. Waiters
/// are ordered as they are served.
///
/// The sequence number has 32 bits and continues below zero. At that moment, once, the newest
/// waiters are served first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Waiter<'a> {
    sequence: i32,
    name: &'a str,
}

impl<'a> Waiter<'a> {
    /// How the names of a session's waiters begin. The server appends the sequence number.
    pub fn prefix(session: i64) -> String {
        format!("{session:016x}-")
    }

    /// `None` if the name has another layout.
    pub fn parse(name: &'a str) -> Option<Waiter<'a>> {
        let sequence = name.split_once('-')?.1.parse().ok()?;
        Some(Waiter { sequence, name })
    }

    /// The session that made the node, by its name.
    pub fn session(self) -> Option<i64> {
        let digits = self.name.split_once('-')?.0;
        let session = u64::from_str_radix(digits, 16).ok()?;
        Some(session.cast_signed())
    }

    /// Whether this session made the node.
    pub fn is_of(self, session: i64) -> bool {
        self.name.starts_with(&Waiter::prefix(session))
    }

    /// The name of the node.
    pub fn name(self) -> &'a str {
        self.name
    }
}

/// What a contender of a lock queue is, by its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ContenderKind {
    /// It holds the lock alone: kazoo's `Lock` and `WriteLock`, and lockex.
    Writer,
    /// It holds the lock beside other readers: `lockex --shared`.
    Reader,
    /// kazoo's `ReadLock`. It takes lockex's readers for writers.
    KazooReader,
}

/// A contender of a lock queue, e.g. of kazoo's `Lock`: `MARK__lock__SEQUENCE`. The mark is 32 hex
/// digits, chosen by the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Contender<'a> {
    /// The whole name.
    pub name: &'a str,
    /// The digits: kazoo compares them as text.
    pub sequence: &'a str,
    /// What it is.
    pub kind: ContenderKind,
}

impl<'a> Contender<'a> {
    /// How the name of a contender begins. The server appends the sequence number.
    pub fn prefix(mark: &str, sharing: Sharing) -> String {
        let kind = match sharing {
            Sharing::Exclusive => CONTENDER,
            Sharing::Shared => READER,
        };
        format!("{mark}{kind}")
    }

    /// `None` if the name has another layout.
    pub fn parse(name: &'a str) -> Option<Contender<'a>> {
        let kinds = [
            (READER, ContenderKind::Reader),
            (CONTENDER, ContenderKind::Writer),
            (KAZOO_READER, ContenderKind::KazooReader),
        ];
        let (sequence, kind) = kinds
            .iter()
            .find_map(|(mark, kind)| Some((name.rsplit_once(mark)?.1, *kind)))?;
        (sequence.len() >= DIGITS && sequence.parse::<i64>().is_ok()).then_some(Contender {
            name,
            sequence,
            kind,
        })
    }

    /// Whether it waits until this contender, which is before it in the queue, has left.
    pub fn waits_for(self, before: Contender) -> bool {
        use ContenderKind::{KazooReader, Reader, Writer};
        match (self.kind, before.kind) {
            (Writer, _) | (_, Writer) | (KazooReader, Reader) => true,
            (Reader | KazooReader, KazooReader) | (Reader, Reader) => false,
        }
    }

    /// For each contender of a queue, in its order: whether it waits for none before it, and so
    /// holds the lock.
    pub fn holding(queue: &[Contender]) -> Vec<bool> {
        let mut before: Vec<Contender> = Vec::new(); // the first of each kind
        let holds = queue.iter().map(|contender| {
            let holds = !before.iter().any(|other| contender.waits_for(*other));
            if before.iter().all(|other| other.kind != contender.kind) {
                before.push(*contender);
            }
            holds
        });
        holds.collect()
    }

    /// Whether the counter is still far enough from its end.
    pub fn is_safe(self) -> bool {
        let number = self.sequence.parse();
        number.is_ok_and(|number: i64| (0..=LAST_SAFE).contains(&number))
    }
}

/// Whether a node of this name was made with this mark.
pub fn has_mark(name: &str, mark: &str) -> bool {
    name.starts_with(mark)
}

/// A mark from random bytes: 32 hex digits.
pub fn mark(random: [u8; 16]) -> String {
    uuid(random, RANDOM).replace('-', "")
}

/// The data of a contender and of a semaphore's lease, as lockex writes it.
pub fn contender_data(host: &str, pid: impl fmt::Display) -> String {
    format!("{host}:{pid}")
}

/// The host and the process in the data of a contender or a lease, as lockex writes it. Clients of
/// kazoo choose this text: without a number at its end, all of it stands for the host.
pub fn contender_origin(text: &str) -> (String, Option<u32>) {
    match text.rsplit_once(':').map(|(host, pid)| (host, pid.parse())) {
        Some((host, Ok(pid))) if !host.is_empty() && pid > 0 => (host.into(), Some(pid)),
        _ => (text.into(), None),
    }
}

/// How a contender or the holder of a lease describes itself. kazoo's clients choose this text.
pub fn contender_text(data: Vec<u8>) -> Option<String> {
    String::from_utf8(data).ok().filter(|text| !text.is_empty())
}

/// The node of the lock which a client of a semaphore holds while it counts leases.
pub fn semaphore_queue_path(semaphore: &str) -> String {
    format!("{semaphore}-__lock__")
}

/// The data of a semaphore's node: how many leases there are.
pub fn permits_data(permits: u32) -> Vec<u8> {
    permits.to_string().into()
}

/// The number of leases in the data of a semaphore's node. `None` if the data is no number.
pub fn permits(data: &[u8]) -> Option<u32> {
    std::str::from_utf8(data).ok()?.trim().parse().ok()
}

/// The version of a uuid whose content an application decides (RFC 9562, section 5.8), and of one
/// that is random.
const CUSTOM: u8 = 8;
const RANDOM: u8 = 4;

/// How many decimal digits of the last group are the process id. Linux has ids up to 2^22.
const PID_DIGITS: usize = 8;

/// A uuid that ends in the process id, in decimal digits, so that an operator can read it in the
/// node. It has 90 random bits, and the length of any uuid.
fn uuid_with_pid(bytes: [u8; 16], pid: u32) -> String {
    let mut text = uuid(bytes, CUSTOM);
    text.truncate(UUID_LENGTH - PID_DIGITS);
    text + &format!("{:0PID_DIGITS$}", pid % 10_u32.pow(8))
}

fn pid_of(uuid: &str) -> Option<u32> {
    let is_custom = uuid.as_bytes().get(14) == Some(&(b'0' + CUSTOM));
    let digits = uuid.get(UUID_LENGTH - PID_DIGITS..)?;
    let pid = digits.parse().ok()?;
    (is_custom && pid > 0).then_some(pid)
}

/// A uuid of this version as text.
fn uuid(mut bytes: [u8; 16], version: u8) -> String {
    bytes[6] = bytes[6] & 0x0f | version << 4;
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

    const BYTES: [u8; 16] = [0xab; 16];

    #[test]
    fn node_data_is_read_back() {
        let data = NodeData::new("web-1.example".into(), BYTES, 4711);
        let written = data.to_string();
        assert_eq!(written, "web-1.exampleabababab-abab-8bab-abab-abab00004711");
        assert_eq!(NodeData::parse(written.as_bytes()), Some(data.clone()));
        assert_eq!((data.host(), data.pid()), ("web-1.example", Some(4711)));
    }

    #[test]
    fn a_random_uuid_has_no_process_id() {
        for id in [
            "12345678-1234-4234-8234-123400004711",
            "12345678-1234-8234-8234-123400000000",
            "12345678-1234-8234-8234-1234abcd4711",
        ] {
            let data = NodeData::parse(format!("web{id}").as_bytes()).unwrap();
            assert_eq!((data.host(), data.pid()), ("web", None), "{id}");
        }
        for pid in [1, 1 << 22, 99_999_999] {
            let data = NodeData::new("h".into(), BYTES, pid);
            assert_eq!((data.pid(), data.id.len()), (Some(pid), UUID_LENGTH));
        }
    }

    #[test]
    fn node_data_needs_a_host_and_a_uuid() {
        let uuid = uuid(BYTES, RANDOM);
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
        let mark = mark(BYTES);
        assert_eq!(mark, "abababababab4bababababababababab");
        for (sharing, kind) in [
            (Sharing::Exclusive, ContenderKind::Writer),
            (Sharing::Shared, ContenderKind::Reader),
        ] {
            let name = format!("{}{:010}", Contender::prefix(&mark, sharing), 7);
            assert!(has_mark(&name, &mark));
            let contender = Contender::parse(&name).unwrap();
            assert_eq!((contender.sequence, contender.kind), ("0000000007", kind));
            assert!(contender.is_safe());
        }
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

    /// What kazoo looks for at the end of a name before it waits for it: `Lock` and `ReadLock` of
    /// all versions since 2.5, and the part of a name that 2.2.1 sorts by.
    #[test]
    fn a_reader_is_a_contender_of_a_lock_for_every_version_of_kazoo() {
        let mark = mark(BYTES);
        let name = format!("{}0000000007", Contender::prefix(&mark, Sharing::Shared));
        assert!(name.ends_with("__lock__0000000007"));
        assert_eq!(name.find("__lock__"), Some(name.len() - 18)); // the first is the last
    }

    #[test]
    fn readers_hold_together_and_writers_alone_in_the_order_of_the_queue() {
        for (queue, expected) in [
            ("", ""),
            ("w", "h"),
            ("www", "h.."),
            ("rrr", "hhh"),
            ("rrwrr", "hh..."),
            ("wrr", "h.."),
            ("kkwk", "hh.."),
            ("krkr", "hh.h"), // kazoo takes lockex's reader for a writer
            ("rkr", "h.h"),
            ("rw", "h."),
            ("kw", "h."),
        ] {
            let names: Vec<_> = queue
                .chars()
                .enumerate()
                .map(|(number, kind)| {
                    let kind = match kind {
                        'w' => CONTENDER,
                        'r' => READER,
                        _ => KAZOO_READER,
                    };
                    format!("x{kind}{number:010}")
                })
                .collect();
            let parsed = names.iter().map(|name| Contender::parse(name).unwrap());
            let parsed: Vec<_> = parsed.collect();
            let holding = Contender::holding(&parsed);
            let shown = holding.iter().map(|holds| if *holds { 'h' } else { '.' });
            assert_eq!(shown.collect::<String>(), expected, "{queue}");
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
    fn a_queue_names_the_locks_that_its_waiters_want() {
        let queue =
            |locks: &[&str]| queue_name(&locks.iter().map(ToString::to_string).collect::<Vec<_>>());
        let one = queue(&["a/b%"]);
        assert_eq!(wanted(&one), Some(Wanted::One("a/b%".into())));
        let several = queue(&["job_0", "job_1", "job_11"]);
        let numbers = Wanted::Numbered {
            stem: "job".into(),
            numbers: 0..=11,
        };
        assert_eq!(wanted(&several), Some(numbers));
        assert_eq!(wanted(&queue(&["job_0", "other_1"])), None);
        assert_eq!(wanted(&queue(&["job", "jobs"])), None);
        for (lock, expected) in [
            ("job_0", Some(("job", 0))),
            ("a_b_11", Some(("a_b", 11))),
            ("job", None),
            ("job_x", None),
        ] {
            assert_eq!(numbered(lock), expected, "{lock}");
        }
    }

    #[test]
    fn requests_of_other_programs_cannot_control_the_terminal() {
        for (data, asker) in [
            (&b""[..], ""),
            (b"\x1b[31mred", "?[31mred"),
            ("a\u{202e}b".as_bytes(), "a?b"),
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
    fn nodes_next_to_locks_are_no_locks() {
        for name in [".queue", ".runs", ".break", "id-__lock__"] {
            assert!(is_reserved(name), "{name}");
        }
        assert!(!is_reserved("id") && !is_reserved("queue"));
        assert!(is_lease(&mark(BYTES)) && !is_lease("id") && !is_lease(&"x".repeat(32)));
    }

    #[test]
    fn origin_of_a_contender_is_its_text_or_host_and_pid() {
        for (text, host, pid) in [
            ("web-1:42", "web-1", Some(42)),
            ("web-1", "web-1", None),
            ("app:", "app:", None),
            (":7", ":7", None),
            ("a:0", "a:0", None),
        ] {
            assert_eq!(contender_origin(text), (host.into(), pid), "{text}");
        }
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
