use super::super::{Call, Target};
use super::fake::BOOT;
use super::*;
use crate::testing::script::{self, milliseconds, pool};
use crate::testing::{Connection, Delivery, Driver, Peer, Reply};

type Script = script::Script<Memcache>;

/// The commands that begin each cycle.
const READ: &str = "gets one:lockedby one:leases one:lockedby";

#[test]
fn a_wait_is_refused_if_another_server_has_granted_the_outer_runs_what_it_waits_for() {
    Script::new(pool(1, 0)).play_ms(&[
        (0, "1 get a/x", "a/x YES 1"),
        (1, "2 wait a/y under 1", "a/y NO outer"),
        (2, "2 wait b under 1", "b NO outer"),
        (3, "1 wait c under 2", ""),
        (4, "1 release a/x", "a/x OK, c YES 2"),
        (5, "1 wait d under 1", ""),
    ]);
    Script::new(pool(2, 0)).play_ms(&[
        (0, "1 get a/x", "a/x YES 1"),
        (1, "1 wait a/y under 1", "a/y NO outer"),
        (2, "1 wait b under 1", "b YES 2"),
        (3, "1 wait c under 1", ""),
        (4, "2 wait d under 1 2", "d NO outer"),
    ]);
}

#[test]
fn servers_share_one_list() {
    let mut script = Script::new(pool(1, 60));
    script.peer.fake.forget();
    script.play_ms(&[
        (0, "1 get a", "a YES 1 57 s"),
        (0, "2 get b", "b NO"),
        (0, "1 get a", "a YES 1 57 s"),
        (1, "2 release b", "b OK"),
        (2, "1 release a", "a OK"),
        (3, "2 get b", "b YES 2 57 s"),
    ]);
    assert_eq!(script.peer.list(), Some("b"));
    assert_eq!(
        script.peer.fake.value("one:token"),
        Some("1763000000000002")
    );
    assert_eq!(
        script.peer.fake.heard[..7],
        [
            READ,
            "incr one:token 1",
            "add one:token 0 0 16",
            "incr one:token 1",
            "add one:leases 0 0 41",
            "add one:lockedby 0 61 1",
            READ
        ]
    );
}

#[test]
fn release_wakes_waiters_at_once_and_at_other_servers_within_250_ms() {
    let mut script = Script::new(pool(1, 0));
    script.play_ms(&[
        (0, "1 get a", "a YES 1"),
        (0, "1 wait b", ""),
        (1, "2 wait c", ""),
        (2, "2 wait c2", ""),
        (3, "1 release a", "a OK, b YES 2"),
        (4, "1 release b", "b OK"),
        (251, "1 tick", ""),
        (252, "1 tick", "c YES 3, c2 YES 3"),
    ]);
}

#[test]
fn list_is_read_four_times_a_second_however_many_clients_wait() {
    let mut script = Script::new(pool(1, 0));
    script.play_ms(&[(0, "1 get a", "a YES 1")]);
    (0..1000).for_each(|number| script.happen(&format!("1 wait w{number}")));
    script.drain();
    let before = script.peer.fake.heard.len();
    for time in (0..=10_000).step_by(10) {
        script.play_ms(&[(time, "1 tick", "")]);
    }
    assert_eq!(script.peer.fake.heard.len() - before, 40);
    assert!(
        script.peer.fake.heard[before..]
            .iter()
            .all(|command| command == READ)
    );
}

#[test]
fn holders_granted_by_other_servers_hold() {
    let mut script = Script::new(pool(2, 60));
    script.play_ms(&[
        (0, "1 holds a,b", ""),
        (0, "1 get c", "c NO"),
        (0, "1 get a", "a YES 1 57 s"),
        (1, "1 release b", "b OK"),
        (2, "1 get c", "c YES 2 57 s"),
    ]);
    assert_eq!(script.peer.list(), Some("a,c"));
    script.play_ms(&[(3, "1 holds ", ""), (3, "1 get d", "d YES 3 57 s")]);
    assert_eq!(script.peer.list(), Some("d"));
}

#[test]
fn requests_fail_within_a_second_without_memcached_and_waiters_wait() {
    const WHY: &str = "503 cannot ask memcached at h:11211: refused";
    let mut script = Script::new(pool(1, 60));
    script.play_ms(&[
        (0, "1 get a", "a YES 1 57 s"),
        (0, "1 wait b", ""),
        (10, "1 unreachable", ""),
        (20, "1 get c", ""),
        (30, "1 release a", ""),
        (919, "1 tick", ""),
        (920, "1 tick", &format!("c {WHY}")),
        (930, "1 tick", &format!("a {WHY}")),
        (5000, "1 get c", ""),
        (5001, "1 reachable", ""),
        (7000, "1 tick", &format!("c {WHY}")),
        (7001, "1 release a", "a OK, b YES 2 57 s"),
    ]);
    let lost = "cannot ask memcached at h:11211: it closed the connection; requests fail until it answers, and waiters keep waiting";
    let told = |note: &str| script.notes.iter().filter(|other| *other == note).count();
    assert_eq!(
        (
            told(lost),
            told("memcached at h:11211 answers again, after 7.0 s")
        ),
        (2, 2),
        "of either server"
    );
}

#[test]
fn recovery_of_memcached_is_logged_without_a_request() {
    let mut script = Script::new(pool(1, 60));
    script.play_ms(&[
        (0, "1 get a", "a YES 1 57 s"),
        (3000, "1 unreachable", ""),
        (3010, "1 reachable", ""),
        (3050, "1 tick", ""),
    ]);
    assert_eq!(
        script.notes.last().unwrap(),
        "memcached at h:11211 answers again, after 0.1 s"
    );
    let asked = script.peer.fake.heard.len();
    script.play_ms(&[(9000, "1 tick", "")]);
    assert_eq!(script.peer.fake.heard.len(), asked);
}

#[test]
fn reconnection_backs_off() {
    let mut script = Script::new(pool(1, 60));
    script.play_ms(&[(0, "1 unreachable", "")]);
    let mut pauses = Vec::new();
    let mut time = 0;
    for _ in 0..8 {
        let wake = u64::try_from(script.servers[0].wait().0.as_millis()).unwrap();
        pauses.push(wake - time);
        time = wake;
        script.play_ms(&[(time, "1 tick", "")]);
    }
    assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
}

#[test]
fn replies_of_a_stalled_memcached_are_accepted_within_10_s() {
    let mut script = Script::new(pool(2, 60));
    script.play_ms(&[
        (0, "1 get a", "a YES 1 57 s"),
        (100, "1 frozen", ""),
        (100, "1 get b", ""),
        (100, "1 wait c", ""),
        (200, "1 wait d", ""),
        (1000, "1 tick", "b 503 memcached does not answer"),
        (5000, "1 thawed", "c YES 2 57 s"),
        (5001, "1 release c", "c OK, d YES 3 57 s"),
    ]);
    assert_eq!(script.peer.list(), Some("a,d"));
}

#[test]
fn connection_is_dropped_after_10_s_without_a_reply() {
    let mut script = Script::new(pool(1, 60));
    script.play_ms(&[
        (0, "1 frozen", ""),
        (0, "1 wait a", ""),
        (9999, "1 tick", ""),
        (10_000, "1 tick", ""),
        (10_050, "1 tick", ""),
        (10_051, "1 thawed", "a YES 1 57 s"),
    ]);
    assert!(
        script.notes[0].starts_with("cannot ask memcached at h:11211: no reply for 10 s; "),
        "{:?}",
        script.notes
    );
}

#[test]
fn refused_write_fails_its_request_and_is_retried() {
    let mut script = Script::new(pool(1, 60));
    script.peer.fake.refuses = Some("SERVER_ERROR out of memory storing object");
    let why = "503 memcached refuses: it answered \"out of memory storing object\"";
    script.play_ms(&[
        (0, "1 get a", ""),
        (0, "1 wait b", ""),
        (249, "1 tick", ""),
        (250, "1 tick", ""),
        (900, "1 tick", &format!("a {why}")),
    ]);
    script.peer.fake.refuses = None;
    script.play_ms(&[(1200, "1 tick", "b YES 1 57 s")]);
    assert_eq!(
        script
            .peer
            .fake
            .heard
            .iter()
            .filter(|command| *command == READ)
            .count(),
        4
    );
    assert_eq!(
        script
            .notes
            .iter()
            .filter(|note| note.starts_with("cannot grant or release one"))
            .count(),
        1
    );
}

/// Answers each write on a connection with the next of these, then hangs up.
struct AnyServer<'a> {
    replies: &'a [&'a [u8]],
    /// How many writes of this connection are answered, and how many are not.
    answered: usize,
    open: usize,
    connections: usize,
}

impl Peer<Target> for AnyServer<'_> {
    fn connect(&mut self, _: Target, _: Moment) -> Reply {
        self.connections += 1;
        (self.answered, self.open) = (0, 0);
        Reply::Accepted(self.connections)
    }

    fn receive(&mut self, _: Connection, _: &[u8], _: Moment) {
        self.open += 1;
    }

    fn close(&mut self, _: Connection) {}

    fn deliver(&mut self, _: Connection, _: Moment) -> Option<Delivery> {
        self.open = self.open.checked_sub(1)?;
        self.answered += 1;
        let reply = self.replies.get(self.answered - 1);
        Some(reply.map_or(Delivery::End(None), |reply| Delivery::Bytes(reply.to_vec())))
    }
}

/// How often in two minutes the server connects to a peer that answers like this, and what it logs.
fn tried_and_told(replies: &[&[u8]]) -> (usize, Vec<String>) {
    let start = milliseconds(0);
    let server = Memcache::new(vec![pool(1, 60)], "h:11211".into(), BOOT, start);
    let mut driver = Driver::new(server, start);
    let request = Request {
        ticket: Ticket(0),
        call: Call::Wait,
        pool: "one",
        host: "a",
        run: None,
        outer: &[],
    };
    driver.input(start, |it| it.handle(Input::Request(request), start));
    let mut peer = AnyServer {
        replies,
        answered: 0,
        open: 0,
        connections: 0,
    };
    let mut notes = Vec::new();
    while let Some(output) = driver.advance(&mut peer, milliseconds(120_000)) {
        if let Output::Note(_, note) = output {
            notes.push(note);
        }
    }
    (peer.connections, notes)
}

#[test]
fn server_that_is_no_memcached_is_logged_once_and_retried_with_backoff() {
    for replies in [
        &[&b"STORED\r\n"[..]][..],
        &[b"END\r\n", b"7\r\n", b"HTTP/1.1 400 Bad Request\r\n"],
        &[b"END\r\n", b"END\r\n"],
        &[],
    ] {
        let (tried, notes) = tried_and_told(replies);
        assert_eq!(notes.len(), 1, "{:?}", notes.get(1));
        assert!(tried < 70, "{tried} times");
    }
    let full = tried_and_told(&[b"ERROR Too many open connections\r\n"]);
    assert_eq!(full.1.len(), 2, "{full:?}");
    assert!(
        full.1[0].ends_with("memcached refuses: it answered \"Too many open connections\""),
        "{full:?}"
    );
    let fickle = tried_and_told(&[b"VALUE one:lockedby 0 1 1\r\nb\r\nEND\r\n"]);
    assert!(
        fickle.0 < 500 && fickle.1.len() < 1000,
        "{} times, {} notes",
        fickle.0,
        fickle.1.len()
    );
}

#[test]
fn error_before_any_command_is_logged_as_memcached_words_it() {
    let mut server = Memcache::new(vec![pool(1, 60)], "h:11211".into(), BOOT, milliseconds(0));
    assert_eq!(
        server.poll(milliseconds(0)),
        Output::Transport(transport::Output::Connect(None))
    );
    server.handle(
        Input::Transport(transport::Event::Connected),
        milliseconds(0),
    );
    server.handle(
        Input::Transport(transport::Event::Received(
            b"ERROR Too many open connections\r\n",
        )),
        milliseconds(0),
    );
    assert_eq!(
        server.poll(milliseconds(0)),
        Output::Transport(transport::Output::Close)
    );
    let Output::Note(_, note) = server.poll(milliseconds(0)) else {
        panic!("it says why")
    };
    assert!(
        note.starts_with(
            "cannot ask memcached at h:11211: it answered \"Too many open connections\"; "
        ),
        "{note}"
    );
}

#[test]
fn names_in_memcached_are_escaped_as_the_original_does() {
    let mut script = Script::new(plan::Pool {
        servers: Some(vec!["r&d".into(), "<b>".into(), "x&amp;y".into()]),
        ..pool(3, 60)
    });
    script.play_ms(&[
        (0, "1 get r&d", "r&d YES 1 57 s"),
        (0, "1 get <b>", "<b> YES 2 57 s"),
        (0, "1 get x&y", "x&y YES 3 57 s"),
        (0, "1 get r&amp", "r&amp INVALID"),
    ]);
    assert_eq!(script.peer.list(), Some("r&amp;d,&lt;b&gt;,x&amp;y"));
    script.play_ms(&[
        (1, "1 lost <b> 2", ""),
        (2, "2 release r&d", "r&d OK"),
        (3, "2 get x&y", "x&y YES 3 57 s"),
    ]);
    assert_eq!(script.peer.list(), Some("x&amp;y"));
}

#[test]
fn report_has_names_as_requests_have_them() {
    let mut script = Script::new(pool(1, 60));
    script.play_ms(&[
        (0, "1 get <r&d>", "<r&d> YES 1 57 s"),
        (0, "1 wait r&amp;d", ""),
        (0, "1 report", "[<r&d> 1 0 s, for 60 s] 0 ms old"),
    ]);
    let report = &script.servers[0].machine.report(milliseconds(0))[0];
    assert_eq!(report.waiters[0].host, "r&amp;d");
    script.play_ms(&[(1, "2 revoke <r&d> 1", "<r&d> revoked 1 for 61 s")]);
    for name in ["a", "<r&d>", "&lt;", "&amp;lt;", "&&amp;amp"] {
        assert_eq!(unescaped(&escaped(name)), name);
    }
}

#[test]
fn pool_is_named_by_its_escaped_name_too() {
    let pools = ["r&amp;d", "<b>", "&lt;b&gt;"];
    let pools = pools.map(|name| plan::Pool {
        name: name.into(),
        ..pool(1, 60)
    });
    let server = Memcache::new(pools.into(), "h:11211".into(), BOOT, milliseconds(0));
    for (asked, name) in [
        ("r&d", Some("r&amp;d")),
        ("r&amp;d", None),
        ("<b>", None),
        ("&lt;b&gt;", None),
        ("other", None),
    ] {
        assert_eq!(server.config_name(asked).as_deref(), name, "{asked}");
    }
}

#[test]
fn malformed_list_is_not_overwritten() {
    let mut script = Script::new(pool(1, 60));
    script.play_ms(&[(0, "1 frozen", ""), (0, "1 get a", "")]);
    let list = &b"VALUE one:lockedby 0 1 5\r\n\xff\r\n".repeat(2)[..];
    let reply = [list, b"END\r\n"].concat();
    script.input(0, Input::Transport(transport::Event::Received(&reply)));
    script.play_ms(&[(
        900,
        "1 tick",
        "a 503 in memcached, one:lockedby is not a list of hosts: if no client holds the pool, delete it",
    )]);
}

#[test]
fn list_that_changes_during_a_read_is_read_again() {
    const LEASE: &str = "1\na,1763000000000009,60,6,0,c,s";
    let (a, empty) = (
        "VALUE one:lockedby 0 1 5\r\na\r\n",
        "VALUE one:lockedby 0 0 6\r\n\r\n",
    );
    // Another server has added a to the list, for a later run than that of the lease that was read
    // with the list.
    let leases = format!("VALUE one:leases 0 {} 7\r\n{LEASE}\r\n", LEASE.len());
    for reply in [
        format!("{a}{leases}{empty}END\r\n"),
        format!("{leases}{a}END\r\n"),
        format!("{a}{leases}END\r\n"),
    ] {
        let mut script = Script::new(pool(1, 60));
        script.play_ms(&[(0, "1 frozen", ""), (0, "1 get a/s", "")]);
        let read = format!("{READ}\r\n");
        assert_eq!(script.peer.unread.remove(&1).as_ref(), Some(&read));
        let received = transport::Event::Received(reply.as_bytes());
        script.input(0, Input::Transport(received));
        assert_eq!(script.drain(), "");
        assert_eq!(script.peer.unread.get(&1), Some(&read), "{reply}");
    }
}

#[test]
fn client_that_hangs_up_during_the_write_is_removed_from_the_list() {
    let mut script = Script::new(pool(1, 60));
    script.play_ms(&[
        (0, "1 get c", "c YES 1 57 s"),
        (0, "1 release c", "c OK"),
        (0, "1 frozen", ""),
        (0, "1 wait a", ""),
        (0, "1 step", ""),
        (0, "1 step", ""),
        (0, "1 step", ""),
        (1, "1 gone a", ""),
        (1, "1 wait b", ""),
        (1, "1 step", ""),
        (2, "1 thawed", "b YES 3 57 s"),
        (3, "1 lost b 3", ""),
        (4, "1 wait c", "c YES 4 57 s"),
        (5, "1 get c", "c YES 4 56 s"),
        (6, "1 lost c 4", ""),
        (7, "1 get d", "d NO"),
    ]);
    assert_eq!(script.peer.list(), Some("c"));
}

#[test]
fn holding_confirmed_by_another_server_is_not_taken_back() {
    for (confirmation, stays) in [("2 get a", "a"), ("2 wait a", "a"), ("2 get b", "")] {
        let mut script = Script::new(pool(1, 60));
        script.play_ms(&[(0, "1 get a", "a YES 1 57 s")]);
        script.happen(confirmation);
        assert_eq!(
            script.drain(),
            if stays.is_empty() {
                "b NO"
            } else {
                "a YES 1 57 s"
            }
        );
        script.play_ms(&[(2, "1 lost a 1", "")]);
        assert_eq!(script.peer.list(), Some(stays), "{confirmation}");
    }
}

#[test]
fn write_with_a_lost_reply_has_no_effect_after_a_contrary_answer() {
    let mut script = Script::new(pool(1, 60));
    script.play_ms(&[
        (0, "1 get a", "a YES 1 57 s"),
        (0, "1 frozen", ""),
        (0, "1 release a", ""),
        (0, "1 step", ""),
    ]);
    let late = script.peer.unread.remove(&1).unwrap();
    assert_eq!(late, "cas one:lockedby 0 61 0 4\r\n\r\n");
    script.play_ms(&[(1, "1 unreachable", ""), (2, "1 thawed", "")]);
    script.play_ms(&[(
        900,
        "1 tick",
        "a 503 cannot ask memcached at h:11211: it closed the connection",
    )]);
    script.play_ms(&[(3000, "1 reachable", ""), (5000, "1 get a", "a YES 1 57 s")]);
    assert_eq!(
        script.peer.fake.execute(&late, milliseconds(5001)),
        "EXISTS\r\n"
    );
    assert_eq!(script.peer.list(), Some("a"));
}

#[test]
fn revocation_whose_reply_is_lost_hits_no_later_holding_of_the_host() {
    let mut lost = 0;
    for count in 0..8 {
        let mut script = Script::new(pool(1, 60));
        script.play_ms(&[(0, "2 get a/r", "a/r YES 1 57 s")]);
        script.happen(&format!("1 cut after {count} replies"));
        script.happen("1 revoke a");
        let is_told = !script.drain().is_empty();
        script.happen("2 renew a/r");
        if is_told || script.drain() != "a/r NO revoked" {
            continue;
        }
        lost += 1;
        script.play_ms(&[
            (1, "2 release a/r 1", "a/r OK"),
            (2, "2 get a/s", "a/s YES 2 57 s"),
        ]);
        script.play_ms(&[(500, "1 tick", "a other token")]);
        script.play_ms(&[(501, "2 renew a/s 2", "a/s YES 2 57 s")]);
    }
    assert!(lost > 0);
}

#[test]
fn each_write_of_the_list_restarts_its_expiry() {
    let mut script = Script::new(pool(2, 60));
    script.play_ms(&[
        (0, "1 get a", "a YES 1 57 s"),
        (10_000, "1 get a", "a YES 1 47 s"),
        (20_000, "1 renew a", "a YES 1 57 s"),
        (30_000, "2 get a", "a YES 1 57 s"),
        (40_000, "1 get a", "a YES 1 38 s"),
        (85_000, "1 get a", "a YES 1 57 s"),
        (86_000, "1 renew b 7", "b YES 2 57 s"),
        (87_000, "1 renew c 7", "c NO"),
    ]);
    let written = script.peer.fake.heard.iter().filter(|command| {
        command.starts_with("cas one:lockedby") || command.starts_with("add one:lockedby")
    });
    assert_eq!(written.count(), 5, "{:?}", script.peer.fake.heard);
}

#[test]
fn lease_counts_from_the_earliest_time_of_the_write() {
    let mut script = Script::new(pool(1, 60));
    script.play_ms(&[
        (0, "1 frozen", ""),
        (0, "1 wait a", ""),
        (0, "1 step", ""),
        (1000, "1 step", ""),
        (1000, "1 step", ""),
    ]);
    script.play_ms(&[
        (4000, "1 step", "a YES 1 54 s"),
        (4000, "1 release a", ""),
        (4000, "1 wait b", ""),
    ]);
    script.play_ms(&[
        (4000, "1 step", ""),
        (4000, "1 step", ""),
        (4000, "1 step", ""),
        (4900, "1 tick", "a 503 memcached does not answer"),
        (13_999, "1 step", "b YES 2 47 s"),
    ]);
}

#[test]
fn expiry_is_sent_in_memcacheds_format() {
    for (expire, told) in [
        (0, "0"),
        (60, "61"),
        (2_591_999, "2592000"),
        (2_592_000, "1765592001"),
    ] {
        let mut script = Script::new(pool(1, expire));
        script.happen("1 get a");
        assert!(script.drain().starts_with("a YES 1"));
        assert_eq!(
            script.peer.fake.heard.last().unwrap(),
            &format!("add one:lockedby 0 {told} 1")
        );
    }
}

#[test]
fn invalid_requests_are_answered_invalid_even_without_memcached() {
    let mut script = Script::new(plan::Pool {
        servers: Some(vec!["a".into()]),
        ..pool(1, 60)
    });
    script.play_ms(&[
        (0, "1 unreachable", ""),
        (0, "1 get b", "b INVALID"),
        (0, "1 wait b", "b INVALID"),
        (0, "1 get a,b", "a,b INVALID"),
    ]);
    script.play_ms(&[
        (1, "1 reachable", ""),
        (60, "1 holds c", ""),
        (60, "1 release b", "b INVALID"),
        (60, "1 release c", "c OK"),
    ]);
}

#[test]
fn new_config_applies_at_once() {
    let mut script = Script::new(pool(1, 60));
    script.play_ms(&[
        (0, "1 get a", "a YES 1 57 s"),
        (0, "1 wait b", ""),
        (0, "1 wait c", ""),
    ]);
    let servers = Some(vec!["a".into(), "b".into()]);
    script.configure(
        0,
        vec![plan::Pool {
            servers,
            ..pool(2, 30)
        }],
        milliseconds(1),
    );
    script.play_ms(&[
        (1, "1 tick", "c INVALID, b YES 2 28 s"),
        (2, "1 get a", "a YES 1 56 s"),
        (3, "1 frozen", ""),
        (3, "1 renew a", ""),
    ]);
    script.configure(0, Vec::new(), milliseconds(3));
    script.play_ms(&[(4, "1 get a", "a INVALID")]);
    script.configure(0, vec![pool(1, 60)], milliseconds(5));
    script.play_ms(&[(5, "1 get c", ""), (6, "1 thawed", "a YES 1 57 s, c NO")]);
}

#[test]
fn removed_pool_keeps_holders_which_can_still_release() {
    let mut script = Script::new(pool(2, 0));
    script.play_ms(&[
        (0, "1 get a", "a YES 1"),
        (0, "1 get b/r", "b/r YES 2"),
        (0, "1 wait c", ""),
    ]);
    script.configure(0, Vec::new(), milliseconds(1));
    script.play_ms(&[
        (1, "1 tick", "c INVALID"),
        (2, "1 get a", "a INVALID"),
        (3, "1 renew a", "a YES 1"),
        (4, "1 renew d", "d INVALID"),
        (5, "1 release d", "d INVALID"),
        (
            6,
            "1 report",
            "[a 1 0 s, until released; b/r 2 0 s, until released] 0 ms old",
        ),
        (7, "1 release a 1", "a OK"),
        (8, "1 revoke b", "b revoked 2 until released"),
        (9, "2 get b/r", "b/r NO revoked"),
        (10, "1 release b/r 2", "b/r OK"),
        (11, "1 tick", ""),
        (12, "1 release b/r 2", "b/r INVALID"),
    ]);
    assert!(script.servers[0].machine.pools.iter().next().is_none());
}

#[test]
fn waiter_of_a_removed_pool_is_answered_although_its_write_failed() {
    let mut script = Script::new(pool(1, 60));
    script.play_ms(&[
        (0, "1 get a", "a YES 1 57 s"),
        (0, "1 release a", "a OK"),
        (0, "1 frozen", ""),
        (0, "1 wait b", ""),
        (0, "1 step", ""),
        (0, "1 step", ""),
    ]);
    script.configure(0, Vec::new(), milliseconds(1));
    script.play_ms(&[
        (1, "1 unreachable", ""),
        (2, "1 thawed", ""),
        (3, "1 reachable", ""),
        (600, "1 tick", "b INVALID"),
    ]);
}

#[test]
fn longer_expire_is_reported_once_the_list_is_written_for_it() {
    for (expire, told) in [(600, "a YES 1 570 s"), (0, "a YES 1")] {
        for call in ["get", "wait", "renew"] {
            let mut script = Script::new(pool(1, 3));
            script.play_ms(&[
                (0, "1 get a", "a YES 1 2 s"),
                (100, &format!("1 expire {expire}"), ""),
            ]);
            script.play_ms(&[
                (200, &format!("1 {call} a"), told),
                (4000, "2 get b", "b NO"),
                (570_000, "2 get b", "b NO"),
            ]);
        }
    }
}

#[test]
fn shorter_expire_shortens_no_reported_lease_whichever_server_writes() {
    let mut script = Script::new(pool(2, 600));
    script.play_ms(&[
        (0, "1 get a", "a YES 1 570 s"),
        (0, "1 get b", "b YES 2 570 s"),
        (1, "1 expire 2", ""),
        (2, "1 renew b", "b YES 2 570 s"),
        (3, "1 release b", "b OK"),
        (4, "1 get c", "c YES 3 1 s"),
        (5000, "2 get d", "d NO"),
        (570_000, "2 get d", "d NO"),
    ]);
    let mut script = Script::new(pool(2, 0));
    script.play_ms(&[
        (0, "1 get a", "a YES 1"),
        (1, "1 expire 2", ""),
        (2, "2 expire 2", ""),
        (3, "2 get b", "b YES 2 1 s"),
    ]);
    script.play_ms(&[
        (3_000_000, "1 get c", "c NO"),
        (3_000_001, "2 get a", "a YES 1"),
    ]);
}

#[test]
fn servers_with_different_expire_do_not_shorten_leases_of_each_other() {
    let mut script = Script::new(pool(2, 600));
    script.play_ms(&[
        (0, "2 expire 2", ""),
        (1, "1 get a", "a YES 1 570 s"),
        (2, "2 get b", "b YES 2 1 s"),
        (3, "2 get a", "a YES 1 570 s"),
        (5000, "2 get c", "c NO"),
        (6000, "1 get b", "b YES 2 570 s"),
        (500_000, "2 get c", "c NO"),
    ]);
    assert_eq!(script.peer.list(), Some("a,b"));
}

#[test]
fn shortest_lease_lasts_a_second_at_any_phase_of_memcacheds_clock() {
    for start in (0..1000).step_by(50) {
        let mut script = Script::new(pool(1, 1));
        script.play_ms(&[
            (start, "1 get a", "a YES 1 0 s"),
            (start + 999, "2 get b", "b NO"),
        ]);
        assert!(
            script
                .peer
                .fake
                .heard
                .contains(&"add one:lockedby 0 2 1".to_owned())
        );
    }
}

#[test]
fn token_releases_its_holding_at_any_server_after_any_restart() {
    let mut script = Script::new(pool(1, 60));
    script.play_ms(&[
        (0, "1 get a", "a YES 1 57 s"),
        (1, "1 release a 9", "a OK wrong token"),
        (2, "2 release a 9", "a OK wrong token"),
        (3, "2 release a 0", "a OK wrong token"),
        (4, "1 killed", ""),
        (5, "1 release a 2", "a OK wrong token"),
        (6, "1 get b", "b NO"),
        (7, "1 release a 1", "a OK"),
        (8, "2 get a", "a YES 2 57 s"),
        (9, "1 release a 1", "a OK wrong token"),
        (10, "2 release b 2", "b OK not held"),
        (11, "1 get b", "b NO"),
        (12, "1 release a 2", "a OK"),
        (13, "1 get b", "b YES 3 57 s"),
    ]);
}

#[test]
fn tokens_are_unique_and_the_same_at_each_server() {
    let mut script = Script::new(pool(3, 60));
    script.happen("1 get a");
    script.happen("1 get b");
    script.play_ms(&[
        (0, "1 wait c", "c YES 1 57 s, a YES 2 57 s, b YES 3 57 s"),
        (1, "2 get b", "b YES 3 57 s"),
        (2, "2 get a", "a YES 2 57 s"),
        (3, "2 killed", ""),
        (4, "2 get c", "c YES 1 57 s"),
        (5, "2 release a 3", "a OK wrong token"),
        (6, "1 get d", "d NO"),
    ]);
}

#[test]
fn at_most_one_run_of_a_host_holds_whichever_server_it_uses() {
    let mut script = Script::new(pool(2, 60));
    script.play_ms(&[
        (0, "1 get a/r", "a/r YES 1 57 s"),
        (1, "2 get a/r", "a/r YES 1 57 s"),
        (2, "2 get a/s", "a/s NO"),
        (3, "1 get a", "a NO"),
        (4, "2 renew a", "a NO"),
        (5, "2 wait a/s", ""),
        (6, "2 get b", "b YES 2 57 s"),
        (7, "1 release a/s", "a/s OK other run"),
        (8, "1 get c", "c NO"),
        (9, "1 release a/r", "a/r OK"),
        (260, "2 tick", "a/s YES 3 57 s"),
        (261, "1 get a/r", "a/r NO"),
        (262, "2 release a", "a OK"),
        (263, "1 get a", "a YES 4 57 s"),
        (264, "2 get a/r", "a/r YES 4 57 s"),
        (265, "2 release a/r", "a/r OK other run"),
        (266, "2 get a/s", "a/s YES 4 56 s"),
    ]);
}

#[test]
fn waiter_of_another_run_is_overtaken_until_its_host_releases() {
    let mut script = Script::new(pool(2, 60));
    script.play_ms(&[
        (0, "1 get a/r", "a/r YES 1 57 s"),
        (1, "1 wait a/s", ""),
        (2, "1 wait b", "b YES 2 57 s"),
        (3, "1 wait c", ""),
        (4, "1 release a/r", "a/r OK, c YES 3 57 s"),
        (5, "1 release b", "b OK, a/s YES 4 57 s"),
    ]);
    let mut script = Script::new(pool(1, 60));
    script.play_ms(&[
        (0, "1 get a/r", "a/r YES 1 57 s"),
        (1, "1 wait a/s", ""),
        (2, "1 release a/r 1", "a/r OK, a/s YES 2 57 s"),
        (3, "1 release a/r 1", "a/r OK wrong token"),
        (4, "2 get a/s", "a/s YES 2 57 s"),
    ]);
}

#[test]
fn revoked_holding_is_confirmed_at_no_server_and_ends_by_release() {
    let mut script = Script::new(pool(1, 60));
    script.play_ms(&[
        (0, "1 revoke a", "a not held"),
        (0, "1 get a/r", "a/r YES 1 57 s"),
        (0, "1 wait b", ""),
        (10_000, "2 revoke a", "a revoked 1 for 51 s"),
        (10_001, "2 revoke a", "a revoked 1 for 51 s"),
        (10_002, "1 renew a/r", "a/r NO revoked"),
        (10_003, "2 get a/r", "a/r NO revoked"),
        (10_004, "2 wait a/r", "a/r NO revoked"),
        (10_005, "1 get a/s", "a/s NO"),
        (10_006, "2 get c", "c NO"),
        (10_007, "1 release a/r 1", "a/r OK, b YES 2 57 s"),
        (10_008, "2 revoke a", "a not held"),
        (10_009, "2 release b", "b OK"),
        (10_010, "2 get a/r", "a/r YES 3 57 s"),
    ]);
    let mut script = Script::new(pool(1, 0));
    script.peer.fake.is_old = true;
    script.play_ms(&[
        (0, "1 get a", "a YES 1"),
        (1, "2 revoke a", "a revoked 1 until released"),
        (2, "1 get a", "a NO revoked"),
    ]);
    script.play_ms(&[
        (3, "1 holds x", ""),
        (4, "1 revoke x", "x revoked 2 until released"),
        (5, "2 get x", "x NO revoked"),
    ]);
}

#[test]
fn list_written_by_the_original_overrides_the_leases() {
    let mut script = Script::new(pool(2, 60));
    script.play_ms(&[
        (0, "1 get a/r", "a/r YES 1 57 s"),
        (1, "1 holds b", ""), // it releases a
        (2, "2 get a/s", "a/s YES 2 57 s"),
        (3, "1 release a/r 1", "a/r OK wrong token"),
        (4, "1 get a/r", "a/r NO"),
        (5, "1 get b/r", "b/r YES 3 57 s"),
        (6, "2 get b/s", "b/s YES 3 56 s"),
        (7, "2 release b/s", "b/s OK other run"),
        (8, "2 get c", "c NO"),
        (9, "1 release b", "b OK"),
        (10, "1 release a/s 2", "a/s OK"),
    ]);
    assert_eq!(
        (script.peer.list(), script.peer.fake.value("one:leases")),
        (Some(""), Some("1"))
    );
    script.play_ms(&[
        (11, "1 holds a", ""),
        (12, "2 release a/s 2", "a/s OK wrong token"),
        (13, "2 get a", "a YES 4 57 s"),
    ]);
}

#[test]
fn server_that_dies_between_its_writes_leaves_no_holder() {
    let mut script = Script::new(pool(1, 60));
    script.play_ms(&[
        (0, "1 get z", "z YES 1 57 s"),
        (0, "1 release z", "z OK"),
        (0, "1 frozen", ""),
        (0, "1 get a/r", ""),
    ]);
    script.play_ms(&[
        (0, "1 step", ""),
        (0, "1 step", ""),
        (0, "1 step", ""),
        (0, "1 killed", ""),
        (1, "1 thawed", ""),
    ]);
    assert!(
        script.peer.fake.value("one:leases").unwrap().contains("a,")
            && script.peer.list() == Some("")
    );
    script.play_ms(&[
        (2, "2 get a/s", ""),
        (200, "2 tick", ""),
        (250, "2 tick", ""),
        (270, "2 tick", "a/s YES 3 57 s"),
    ]);
    script.play_ms(&[
        (271, "1 get a/r", "a/r NO"),
        (272, "1 release a/s 3", "a/s OK"),
        (273, "1 get b", "b YES 4 57 s"),
    ]);
}

/// Lets one server act. memcached reads nothing of the first one.
fn act(script: &mut Script, server: usize) -> String {
    script.peer.is_frozen = server == 0;
    let said = script.said_by(server).into_iter().map(|(_, said)| said);
    said.collect::<Vec<_>>().join(", ")
}

#[test]
fn write_of_a_slow_server_is_awaited_or_fenced_off() {
    for (resumed, first, second) in [
        (100, "a/r YES 3 56 s", "a/s NO"),
        (300, "", "a/s YES 4 57 s"),
    ] {
        let mut script = Script::new(pool(1, 60));
        script.play_ms(&[
            (0, "1 get z", "z YES 1 57 s"),
            (0, "1 release z", "z OK"),
            (0, "2 get z", "z YES 2 57 s"),
            (0, "2 release z", "z OK"),
        ]);
        script.happen("1 get a/r");
        for _ in 0..3 {
            act(&mut script, 0);
            script.happen("1 step");
        }
        act(&mut script, 0); // its next step writes the list
        let write = script.peer.unread.remove(&1).unwrap();
        script.happen("2 get a/s");
        act(&mut script, 1);
        for time in 1..400 {
            script.now = milliseconds(time);
            script.servers[1].jump(script.now);
            if time == resumed {
                script.peer.unread.insert(1, write.clone());
                script.happen("1 step");
                assert_eq!(act(&mut script, 0), first, "{resumed}");
            }
            let said = act(&mut script, 1);
            assert!(said.is_empty() || said == second, "{resumed}: {said}");
            if said == second {
                if time < resumed {
                    script.peer.unread.insert(1, write.clone());
                    script.happen("1 step");
                }
                script.peer.is_frozen = false;
                script.play_ms(&[(500, "1 tick", if first.is_empty() { "a/r NO" } else { "" })]);
                break;
            }
        }
    }
}

#[test]
fn malformed_leases_grant_nothing_and_are_not_overwritten() {
    const WHY: &str = "a 503 in memcached, one:leases is not understood: another version of distributexd, or another program, wrote it; if no client holds the pool, delete one:leases and one:lockedby";
    for garbage in ["2", "1\na,x", "<html>", ""] {
        let mut script = Script::new(pool(2, 60));
        script.peer.fake.put("one:leases", garbage, Moment::NEVER);
        script.play_ms(&[
            (0, "1 holds a", ""),
            (1, "1 get a", ""),
            (1000, "1 tick", WHY),
        ]);
        assert_eq!(
            (script.peer.list(), script.peer.fake.value("one:leases")),
            (Some("a"), Some(garbage))
        );
        script.play_ms(&[
            (1001, "1 holds ", ""),
            (1300, "1 get a", "a YES 1 57 s"),
            (1301, "2 get a", "a YES 1 57 s"),
        ]);
    }
}

#[test]
fn all_servers_report_the_same_and_unknown_values_are_left_out() {
    let mut script = Script::new(pool(3, 60));
    script.play_ms(&[
        (0, "1 get a/r", "a/r YES 1 57 s"),
        (1000, "2 get b", "b YES 2 57 s"),
        (1001, "2 revoke b", "b revoked 2 for 61 s"),
    ]);
    let both = "[a/r 1 10 s, for 51 s; b 2 9 s, for 51 s, revoked] 0 ms old";
    script.play_ms(&[(10_900, "1 report", both), (10_900, "2 report", both)]);
    let asked = script.peer.fake.heard.len();
    script.play_ms(&[(
        11_100,
        "1 report",
        "[a/r 1 11 s, for 50 s; b 2 10 s, for 50 s, revoked] 200 ms old",
    )]);
    assert_eq!(script.peer.fake.heard.len(), asked, "it was read just now");
    script.play_ms(&[
        (11_200, "1 holds a,x", ""),
        (
            12_000,
            "2 report",
            "[a/r 1 12 s, until released; x ? ? s, until released] 0 ms old",
        ),
    ]);
    script.peer.fake.is_old = true;
    script.play_ms(&[(
        13_000,
        "1 report",
        "[a/r 1 13 s, for an unknown time; x ? ? s, for an unknown time] 0 ms old",
    )]);
    script.play_ms(&[
        (90_000, "1 killed", ""),
        (90_001, "1 holds ", ""),
        (90_002, "1 report", "[] 0 ms old"),
    ]);
}

#[test]
fn report_is_unavailable_without_memcached() {
    const WHY: &str = "report 503 cannot ask memcached at h:11211: it closed the connection";
    let mut script = Script::new(pool(1, 60));
    script.play_ms(&[
        (0, "1 get a", "a YES 1 57 s"),
        (1000, "1 frozen", ""),
        (1000, "1 report", ""),
        (1899, "1 tick", ""),
    ]);
    script.play_ms(&[
        (1900, "1 tick", "report 503 memcached does not answer"),
        (1901, "1 report", ""),
        (2000, "1 unreachable", WHY),
    ]);
    script.play_ms(&[(2001, "1 report", WHY)]);
    // A report that was read before the outage is not shown after it.
    let mut script = Script::new(pool(1, 60));
    script.play_ms(&[
        (0, "1 get a", "a YES 1 57 s"),
        (1, "1 report", "[a 1 0 s, for 60 s] 0 ms old"),
        (2, "1 unreachable", ""),
    ]);
    script.peer.fake.forget();
    script.play_ms(&[
        (3, "1 reachable", ""),
        (60, "1 tick", ""),
        (61, "1 report", "[] 0 ms old"),
    ]);
    let Output::Wait(_) = script.servers[0].machine.poll(script.now) else {
        panic!("nothing is asked")
    };
}
