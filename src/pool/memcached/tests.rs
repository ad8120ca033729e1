use super::super::{Call, Grant, Holder, Remaining};
use super::fake::Fake;
use super::*;
use std::time::Duration;

/// When this host booted: the tokens begin here, in microseconds.
const BOOT: BootTime = BootTime(1_763_000_000_000);

/// Two servers and a memcached as a script: each line has a time in ms, an event, and the servers'
/// answers.
///
/// Clients are named after their hosts, with a number if a host has several, and by run: `a/r` is
/// the run `r` of the host `a`. Tokens are shown relative to the first one.
struct Site {
    servers: [Memcache; 2],
    pool: plan::Pool,
    fake: Fake,
    reachable: bool,
    frozen: bool,
    /// The commands that the frozen memcached has not read yet, by server.
    unread: [String; 2],
    clients: Vec<String>,
    now: Moment,
    notes: Vec<String>,
}

/// The commands that begin each cycle.
const READ: &str = "gets one:lockedby one:leases one:lockedby";

fn at(milliseconds: u64) -> Moment {
    Moment(Duration::from_millis(milliseconds))
}

fn pool(permits: u32, expire: u64) -> plan::Pool {
    plan::Pool {
        name: "one".into(),
        expire: (expire > 0).then(|| Duration::from_secs(expire)),
        permits,
        servers: None,
    }
}

impl Site {
    fn new(pool: &plan::Pool) -> Site {
        let server = || Memcache::new(vec![pool.clone()], "h:11211".into(), BOOT, at(0));
        let mut fake = Fake::new(BOOT);
        fake.put("one:token", &BOOT.micros(at(0)).to_string(), Moment::NEVER);
        Site {
            servers: [server(), server()],
            pool: pool.clone(),
            fake,
            reachable: true,
            frozen: false,
            unread: Default::default(),
            clients: Vec::new(),
            now: at(0),
            notes: Vec::new(),
        }
    }

    fn play(&mut self, lines: &[(u64, &str, &str)]) {
        for &(time, event, expected) in lines {
            self.now = at(time);
            self.happen(event);
            assert_eq!(
                self.drain(),
                expected,
                "{event:?} at {time} ms; {:?}",
                self.fake.heard
            );
        }
    }

    fn happen(&mut self, event: &str) {
        let words: Vec<_> = event.split(' ').collect();
        let server = usize::from(words[0] == "2");
        match words[1..] {
            ["tick"] => self
                .servers
                .iter_mut()
                .for_each(|server| server.handle(Input::Tick, self.now)),
            ["reachable"] => self.reachable = true,
            ["unreachable"] => {
                self.reachable = false;
                self.servers.iter_mut().for_each(|server| {
                    server.handle(
                        Input::Transport(transport::Event::Disconnected(None)),
                        self.now,
                    );
                });
            }
            ["frozen"] => self.frozen = true,
            ["thawed"] => self.frozen = false,
            ["step"] => self.execute(server),
            ["expire", seconds] => {
                let expire = pool(1, seconds.parse().unwrap()).expire;
                self.servers[server].reconfigure(
                    vec![plan::Pool {
                        expire,
                        ..self.pool.clone()
                    }],
                    self.now,
                );
            }
            ["killed"] => {
                self.servers[server] =
                    Memcache::new(vec![self.pool.clone()], "h:11211".into(), BOOT, self.now);
                self.unread[server].clear();
            }
            ["leases", value] => self.fake.put("one:leases", value, Moment::NEVER),
            ["report"] => {
                self.clients.push("report".into());
                let ticket = self.ticket("report");
                self.servers[server].handle(Input::ReportRequested(ticket), self.now);
            }
            ["revoke", client] => self.ask(server, client, Call::Revoke),
            ["holds", value] => self.fake.put("one:lockedby", value, Moment::NEVER),
            ["gone", client] => {
                self.servers[server].handle(Input::Cancelled(self.ticket(client)), self.now);
            }
            ["lost", host, token] => {
                let token = BOOT.micros(at(0)) + token.parse::<i64>().unwrap();
                self.servers[server].handle(
                    Input::Undelivered {
                        pool: "one",
                        host,
                        token,
                    },
                    self.now,
                );
            }
            ["get", client] => self.ask(server, client, Call::Get),
            ["wait", client] => self.ask(server, client, Call::Wait),
            ["wait", client, "under", ref outer @ ..] => {
                let token = |token: &&str| BOOT.micros(at(0)) + token.parse::<i64>().unwrap();
                let outer: Vec<_> = outer.iter().map(token).collect();
                self.ask_under(server, client, Call::Wait, &outer);
            }
            ["renew", client] => self.ask(server, client, Call::Renew { token: None }),
            ["renew", client, token] => {
                let token = BOOT.micros(at(0)) + token.parse::<i64>().unwrap();
                self.ask(server, client, Call::Renew { token: Some(token) });
            }
            ["release", client] => self.ask(server, client, Call::Release { token: None }),
            ["release", client, token] => {
                let token = BOOT.micros(at(0)) + token.parse::<i64>().unwrap();
                self.ask(server, client, Call::Release { token: Some(token) });
            }
            _ => panic!("{event}"),
        }
    }

    fn ask(&mut self, server: usize, client: &str, call: Call) {
        self.ask_under(server, client, call, &[]);
    }

    fn ask_under(&mut self, server: usize, client: &str, call: Call, outer: &[i64]) {
        self.clients.push(client.into());
        let (host, run) = client
            .split_once('/')
            .map_or((client, None), |(host, run)| (host, Some(run)));
        let (ticket, host) = (self.ticket(client), host.trim_end_matches(char::is_numeric));
        self.servers[server].handle(
            Input::Request(Request {
                ticket,
                call,
                pool: "one",
                host,
                run,
                outer,
            }),
            self.now,
        );
    }

    fn ticket(&self, client: &str) -> Ticket {
        Ticket(
            self.clients
                .iter()
                .rposition(|name| name == client)
                .unwrap()
                .try_into()
                .unwrap(),
        )
    }

    fn drain(&mut self) -> String {
        let said = [0, 1]
            .map(|index| self.drained(index, !self.frozen))
            .concat();
        said.join(", ")
    }

    /// Lets one server act, while memcached receives nothing.
    fn act(&mut self, index: usize) -> String {
        let executes = index == 1;
        self.drained(index, executes).join(", ")
    }

    fn drained(&mut self, index: usize, executes: bool) -> Vec<String> {
        let mut said = Vec::new();
        loop {
            if executes {
                self.execute(index);
            }
            let server = &mut self.servers[index];
            match server.poll(self.now) {
                Output::Answer(Ticket(ticket), answer) => {
                    said.push(format!(
                        "{} {}",
                        self.clients[usize::try_from(ticket).unwrap()],
                        shown(&answer)
                    ));
                }
                Output::Note(_, note) => self.notes.push(note),
                Output::Transport(transport::Output::Connect(())) if self.reachable => {
                    server.handle(Input::Transport(transport::Event::Connected), self.now);
                }
                Output::Transport(transport::Output::Connect(())) => {
                    server.handle(
                        Input::Transport(transport::Event::Disconnected(Some("refused".into()))),
                        self.now,
                    );
                }
                Output::Transport(transport::Output::Send(bytes)) => {
                    self.unread[index] += str::from_utf8(&bytes).unwrap();
                }
                Output::Transport(transport::Output::Close) => self.unread[index].clear(),
                Output::Report(_) => said.push(seen(&server.report(self.now)[0])),
                output @ (Output::Save(_) | Output::Transport(_)) => {
                    panic!("not expected: {output:?}")
                }
                Output::Wait(_) => return said,
            }
        }
    }

    fn execute(&mut self, server: usize) {
        let replies = self
            .fake
            .execute(&std::mem::take(&mut self.unread[server]), self.now);
        if !replies.is_empty() {
            self.servers[server].handle(
                Input::Transport(transport::Event::Received(replies.as_bytes())),
                self.now,
            );
        }
    }

    fn list(&self) -> Option<&str> {
        self.fake.value("one:lockedby")
    }
}

fn shown(answer: &Answer) -> String {
    match answer {
        Answer::Yes(Grant { token, expires }) => {
            let token = token - BOOT.micros(at(0));
            format!(
                "YES {token}{}",
                expires.map_or(String::new(), |left| format!(" {} s", left.as_secs()))
            )
        }
        Answer::No => "NO".into(),
        Answer::Ok => "OK".into(),
        Answer::Invalid(_) => "INVALID".into(),
        Answer::Unavailable(why) => format!("503 {why}"),
        Answer::NoRevoked => "NO, revoked".into(),
        Answer::NoOuter => "NO, outer".into(),
        Answer::Revocation { token, ends } => format!(
            "revoked {} {}",
            token.unwrap() - BOOT.micros(at(0)),
            left(*ends)
        ),
        Answer::NotHeld => "not held".into(),
    }
}

fn left(ends: Remaining) -> String {
    match ends {
        Remaining::For(left) => format!("for {} s", left.as_secs()),
        Remaining::UntilReleased => "until released".into(),
        Remaining::Unknown => "for an unknown time".into(),
    }
}

/// The holders in a report.
fn seen(report: &Report) -> String {
    let holders = report.holders.iter().map(
        |Holder {
             host,
             run,
             token,
             held,
             ends,
             revoked,
         }| {
            let run = run.map_or(String::new(), |run| format!("/{run}"));
            let token = token.map_or("?".into(), |token| (token - BOOT.micros(at(0))).to_string());
            let held = held.map_or("?".into(), |held| held.as_secs().to_string());
            format!(
                "{host}{run} {token} {held} s, {}{}",
                left(*ends),
                if *revoked { ", revoked" } else { "" }
            )
        },
    );
    format!(
        "[{}] {} ms old",
        holders.collect::<Vec<_>>().join("; "),
        report.age.unwrap().as_millis()
    )
}

#[test]
fn a_wait_is_refused_if_only_outer_runs_hold_what_it_waits_for() {
    Site::new(&pool(1, 0)).play(&[
        (0, "1 get a/x", "a/x YES 1"),
        (1, "2 wait a/y under 1", "a/y NO, outer"),
        (2, "2 wait b under 1", "b NO, outer"),
        (3, "1 wait c under 2", ""),
        (4, "1 release a/x", "a/x OK, c YES 2"),
        (5, "1 wait d under 1", ""),
    ]);
    Site::new(&pool(2, 0)).play(&[
        (0, "1 get a/x", "a/x YES 1"),
        (1, "1 wait a/y under 1", "a/y NO, outer"),
        (2, "1 wait b under 1", "b YES 2"),
        (3, "1 wait c under 1", ""),
        (4, "2 wait d under 1 2", "d NO, outer"),
    ]);
}

#[test]
fn servers_share_one_list() {
    let mut site = Site::new(&pool(1, 60));
    site.fake.forget();
    site.play(&[
        (0, "1 get a", "a YES 1 57 s"),
        (0, "2 get b", "b NO"),
        (0, "1 get a", "a YES 1 57 s"),
        (1, "2 release b", "b OK"),
        (2, "1 release a", "a OK"),
        (3, "2 get b", "b YES 2 57 s"),
    ]);
    assert_eq!(site.list(), Some("b"));
    assert_eq!(site.fake.value("one:token"), Some("1763000000000002"));
    assert_eq!(
        site.fake.heard[..7],
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
    let mut site = Site::new(&pool(1, 0));
    site.play(&[
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
    let mut site = Site::new(&pool(1, 0));
    site.play(&[(0, "1 get a", "a YES 1")]);
    (0..1000).for_each(|number| site.happen(&format!("1 wait w{number}")));
    site.drain();
    let before = site.fake.heard.len();
    for time in (0..=10_000).step_by(10) {
        site.play(&[(time, "1 tick", "")]);
    }
    assert_eq!(site.fake.heard.len() - before, 40);
    assert!(
        site.fake.heard[before..]
            .iter()
            .all(|command| command == READ)
    );
}

#[test]
fn holders_granted_by_other_servers_hold() {
    let mut site = Site::new(&pool(2, 60));
    site.play(&[
        (0, "1 holds a,b", ""),
        (0, "1 get c", "c NO"),
        (0, "1 get a", "a YES 1 57 s"),
        (1, "1 release b", "b OK"),
        (2, "1 get c", "c YES 2 57 s"),
    ]);
    assert_eq!(site.list(), Some("a,c"));
    site.play(&[(3, "1 holds ", ""), (3, "1 get d", "d YES 3 57 s")]);
    assert_eq!(site.list(), Some("d"));
}

#[test]
fn requests_fail_within_a_second_without_memcached_and_waiters_wait() {
    const WHY: &str = "503 cannot ask memcached at h:11211: refused";
    let mut site = Site::new(&pool(1, 60));
    site.play(&[
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
    let told = |note: &str| site.notes.iter().filter(|other| *other == note).count();
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
    let mut site = Site::new(&pool(1, 60));
    site.play(&[
        (0, "1 get a", "a YES 1 57 s"),
        (3000, "1 unreachable", ""),
        (3010, "1 reachable", ""),
        (3050, "1 tick", ""),
    ]);
    assert_eq!(
        site.notes.last().unwrap(),
        "memcached at h:11211 answers again, after 0.1 s"
    );
    let asked = site.fake.heard.len();
    site.play(&[(9000, "1 tick", "")]);
    assert_eq!(site.fake.heard.len(), asked);
}

#[test]
fn reconnection_backs_off() {
    let mut site = Site::new(&pool(1, 60));
    site.play(&[(0, "1 unreachable", "")]);
    let mut pauses = Vec::new();
    let mut time = 0;
    for _ in 0..8 {
        let Output::Wait(Moment(wake)) = site.servers[0].poll(site.now) else {
            panic!("there is nothing to do")
        };
        let wake = u64::try_from(wake.as_millis()).unwrap();
        pauses.push(wake - time);
        time = wake;
        site.play(&[(time, "1 tick", "")]);
    }
    assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
}

#[test]
fn replies_of_a_stalled_memcached_are_accepted_within_10_s() {
    let mut site = Site::new(&pool(2, 60));
    site.play(&[
        (0, "1 get a", "a YES 1 57 s"),
        (100, "1 frozen", ""),
        (100, "1 get b", ""),
        (100, "1 wait c", ""),
        (200, "1 wait d", ""),
        (1000, "1 tick", "b 503 memcached does not answer"),
        (5000, "1 thawed", "c YES 2 57 s"),
        (5001, "1 release c", "c OK, d YES 3 57 s"),
    ]);
    assert_eq!(site.list(), Some("a,d"));
}

#[test]
fn connection_is_dropped_after_10_s_without_a_reply() {
    let mut site = Site::new(&pool(1, 60));
    site.play(&[
        (0, "1 frozen", ""),
        (0, "1 wait a", ""),
        (9999, "1 tick", ""),
        (10_000, "1 tick", ""),
        (10_050, "1 tick", ""),
        (10_051, "1 thawed", "a YES 1 57 s"),
    ]);
    assert!(
        site.notes[0].starts_with("cannot ask memcached at h:11211: no reply for 10 s; "),
        "{:?}",
        site.notes
    );
}

#[test]
fn refused_write_fails_its_request_and_is_retried() {
    let mut site = Site::new(&pool(1, 60));
    site.fake.refuses = Some("SERVER_ERROR out of memory storing object");
    let why = "503 memcached refuses: it answered \"out of memory storing object\"";
    site.play(&[
        (0, "1 get a", ""),
        (0, "1 wait b", ""),
        (249, "1 tick", ""),
        (250, "1 tick", ""),
        (900, "1 tick", &format!("a {why}")),
    ]);
    site.fake.refuses = None;
    site.play(&[(1200, "1 tick", "b YES 1 57 s")]);
    assert_eq!(
        site.fake
            .heard
            .iter()
            .filter(|command| *command == READ)
            .count(),
        4
    );
    assert_eq!(
        site.notes
            .iter()
            .filter(|note| note.starts_with("cannot grant or release one"))
            .count(),
        1
    );
}

/// How often in two minutes the server connects to a peer that answers like this, and what it logs.
fn tried_and_told(replies: &[&[u8]]) -> (usize, Vec<String>) {
    let mut server = Memcache::new(vec![pool(1, 60)], "h:11211".into(), BOOT, at(0));
    server.handle(
        Input::Request(Request {
            ticket: Ticket(0),
            call: Call::Wait,
            pool: "one",
            host: "a",
            run: None,
            outer: &[],
        }),
        at(0),
    );
    let (mut now, mut tried, mut notes, mut next) = (at(0), 0, Vec::new(), replies.iter());
    while now < at(120_000) {
        match server.poll(now) {
            Output::Transport(transport::Output::Connect(())) => {
                (tried, next) = (tried + 1, replies.iter());
                server.handle(Input::Transport(transport::Event::Connected), now);
            }
            Output::Transport(transport::Output::Send(_)) => match next.next() {
                Some(reply) => {
                    server.handle(Input::Transport(transport::Event::Received(reply)), now);
                }
                None => server.handle(Input::Transport(transport::Event::Disconnected(None)), now),
            },
            Output::Note(_, note) => notes.push(note),
            Output::Wait(until) => {
                now = until;
                server.handle(Input::Tick, now);
            }
            _ => {}
        }
    }
    (tried, notes)
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
    let mut server = Memcache::new(vec![pool(1, 60)], "h:11211".into(), BOOT, at(0));
    assert_eq!(
        server.poll(at(0)),
        Output::Transport(transport::Output::Connect(()))
    );
    server.handle(Input::Transport(transport::Event::Connected), at(0));
    server.handle(
        Input::Transport(transport::Event::Received(
            b"ERROR Too many open connections\r\n",
        )),
        at(0),
    );
    assert_eq!(
        server.poll(at(0)),
        Output::Transport(transport::Output::Close)
    );
    let Output::Note(_, note) = server.poll(at(0)) else {
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
    let mut site = Site::new(&plan::Pool {
        servers: Some(vec!["r&d".into(), "<b>".into(), "x&amp;y".into()]),
        ..pool(3, 60)
    });
    site.play(&[
        (0, "1 get r&d", "r&d YES 1 57 s"),
        (0, "1 get <b>", "<b> YES 2 57 s"),
        (0, "1 get x&y", "x&y YES 3 57 s"),
        (0, "1 get r&amp", "r&amp INVALID"),
    ]);
    assert_eq!(site.list(), Some("r&amp;d,&lt;b&gt;,x&amp;y"));
    site.play(&[
        (1, "1 lost <b> 2", ""),
        (2, "2 release r&d", "r&d OK"),
        (3, "2 get x&y", "x&y YES 3 57 s"),
    ]);
    assert_eq!(site.list(), Some("x&amp;y"));
}

#[test]
fn pool_is_found_by_its_escaped_name() {
    let mut server = Memcache::new(
        vec![plan::Pool {
            name: "r&amp;d".into(),
            ..pool(1, 60)
        }],
        "h:11211".into(),
        BOOT,
        at(0),
    );
    server.handle(
        Input::Request(Request {
            ticket: Ticket(0),
            call: Call::Get,
            pool: "r&d",
            host: "a",
            run: None,
            outer: &[],
        }),
        at(0),
    );
    assert_eq!(
        server.poll(at(0)),
        Output::Transport(transport::Output::Connect(()))
    );
    server.handle(Input::Transport(transport::Event::Connected), at(0));
    assert_eq!(
        server.poll(at(0)),
        Output::Transport(transport::Output::Send(
            b"gets r&amp;d:lockedby r&amp;d:leases r&amp;d:lockedby\r\n".to_vec()
        ))
    );
}

#[test]
fn malformed_list_is_not_overwritten() {
    let mut site = Site::new(&pool(1, 60));
    site.happen("1 get a");
    let Output::Transport(transport::Output::Connect(())) = site.servers[0].poll(at(0)) else {
        panic!("it connects")
    };
    site.servers[0].handle(Input::Transport(transport::Event::Connected), at(0));
    let Output::Transport(transport::Output::Send(_)) = site.servers[0].poll(at(0)) else {
        panic!("it reads the list")
    };
    site.servers[0].handle(
        Input::Transport(transport::Event::Received(
            &[
                &b"VALUE one:lockedby 0 1 5\r\n\xff\r\n".repeat(2)[..],
                b"END\r\n",
            ]
            .concat(),
        )),
        at(0),
    );
    site.play(&[(
        900,
        "1 tick",
        "a 503 in memcached, one:lockedby is not a list of hosts: if no client holds the pool, delete it",
    )]);
}

#[test]
fn list_that_changes_during_a_read_is_read_again() {
    const LEASE: &str = "1\na,1763000000000009,60,6,0,c,s";
    const READ_AGAIN: &[u8] = b"gets one:lockedby one:leases one:lockedby\r\n";
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
        let mut site = Site::new(&pool(1, 60));
        site.happen("1 get a/s");
        let Output::Transport(transport::Output::Connect(())) = site.servers[0].poll(at(0)) else {
            panic!("it connects")
        };
        site.servers[0].handle(Input::Transport(transport::Event::Connected), at(0));
        assert_eq!(
            site.servers[0].poll(at(0)),
            Output::Transport(transport::Output::Send(READ_AGAIN.to_vec()))
        );
        site.servers[0].handle(
            Input::Transport(transport::Event::Received(reply.as_bytes())),
            at(0),
        );
        assert_eq!(
            site.servers[0].poll(at(0)),
            Output::Transport(transport::Output::Send(READ_AGAIN.to_vec())),
            "{reply}"
        );
    }
}

#[test]
fn client_that_hangs_up_during_the_write_is_removed_from_the_list() {
    let mut site = Site::new(&pool(1, 60));
    site.play(&[
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
    assert_eq!(site.list(), Some("c"));
}

#[test]
fn holding_confirmed_by_another_server_is_not_taken_back() {
    for (confirmation, stays) in [("2 get a", "a"), ("2 wait a", "a"), ("2 get b", "")] {
        let mut site = Site::new(&pool(1, 60));
        site.play(&[(0, "1 get a", "a YES 1 57 s")]);
        site.happen(confirmation);
        assert_eq!(
            site.drain(),
            if stays.is_empty() {
                "b NO"
            } else {
                "a YES 1 57 s"
            }
        );
        site.play(&[(2, "1 lost a 1", "")]);
        assert_eq!(site.list(), Some(stays), "{confirmation}");
    }
}

#[test]
fn write_with_a_lost_reply_has_no_effect_after_a_contrary_answer() {
    let mut site = Site::new(&pool(1, 60));
    site.play(&[
        (0, "1 get a", "a YES 1 57 s"),
        (0, "1 frozen", ""),
        (0, "1 release a", ""),
        (0, "1 step", ""),
    ]);
    let late = std::mem::take(&mut site.unread[0]);
    assert_eq!(late, "cas one:lockedby 0 61 0 4\r\n\r\n");
    site.play(&[(1, "1 unreachable", ""), (2, "1 thawed", "")]);
    site.play(&[(
        900,
        "1 tick",
        "a 503 cannot ask memcached at h:11211: it closed the connection",
    )]);
    site.play(&[(3000, "1 reachable", ""), (5000, "1 get a", "a YES 1 57 s")]);
    assert_eq!(site.fake.execute(&late, at(5001)), "EXISTS\r\n");
    assert_eq!(site.list(), Some("a"));
}

#[test]
fn renewal_with_the_token_confirms_delivery_so_a_lost_reply_takes_nothing_back() {
    for (renewal, stays) in [("1 renew a 1", "a"), ("1 renew a 9", "")] {
        let mut site = Site::new(&pool(1, 60));
        site.play(&[
            (0, "1 get a", "a YES 1 57 s"),
            (1, renewal, "a YES 1 57 s"),
            (2, "1 lost a 1", ""),
            (2, "1 lost a 1", ""),
        ]);
        assert_eq!(site.list(), Some(stays), "{renewal}");
    }
}

#[test]
fn each_write_of_the_list_restarts_its_expiry() {
    let mut site = Site::new(&pool(2, 60));
    site.play(&[
        (0, "1 get a", "a YES 1 57 s"),
        (10_000, "1 get a", "a YES 1 47 s"),
        (20_000, "1 renew a", "a YES 1 57 s"),
        (30_000, "2 get a", "a YES 1 57 s"),
        (40_000, "1 get a", "a YES 1 38 s"),
        (85_000, "1 get a", "a YES 1 57 s"),
        (86_000, "1 renew b", "b YES 2 57 s"),
        (87_000, "1 renew c", "c NO"),
    ]);
    let written = site.fake.heard.iter().filter(|command| {
        command.starts_with("cas one:lockedby") || command.starts_with("add one:lockedby")
    });
    assert_eq!(written.count(), 5, "{:?}", site.fake.heard);
}

#[test]
fn lease_counts_from_the_earliest_time_of_the_write() {
    let mut site = Site::new(&pool(1, 60));
    site.play(&[
        (0, "1 frozen", ""),
        (0, "1 wait a", ""),
        (0, "1 step", ""),
        (1000, "1 step", ""),
        (1000, "1 step", ""),
    ]);
    site.play(&[
        (4000, "1 step", "a YES 1 54 s"),
        (4000, "1 release a", ""),
        (4000, "1 wait b", ""),
    ]);
    site.play(&[
        (4000, "1 step", ""),
        (4000, "1 step", ""),
        (4000, "1 step", ""),
        (13_999, "1 step", "a OK, b YES 2 47 s"),
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
        let mut site = Site::new(&pool(1, expire));
        site.happen("1 get a");
        assert!(site.drain().starts_with("a YES 1"));
        assert_eq!(
            site.fake.heard.last().unwrap(),
            &format!("add one:lockedby 0 {told} 1")
        );
    }
}

#[test]
fn release_with_an_old_token_releases_nothing() {
    let mut site = Site::new(&pool(1, 60));
    site.play(&[
        (0, "1 get a", "a YES 1 57 s"),
        (1, "1 release a 1", "a OK"),
        (2, "1 get a", "a YES 2 57 s"),
        (3, "1 release a 1", "a OK"),
        (4, "1 get b", "b NO"),
        (5, "1 release a 2", "a OK"),
        (6, "2 get b", "b YES 3 57 s"),
        (7, "1 release b 3", "b OK"),
        (8, "1 get c", "c YES 4 57 s"),
    ]);
}

#[test]
fn invalid_requests_are_answered_invalid_even_without_memcached() {
    let mut site = Site::new(&plan::Pool {
        servers: Some(vec!["a".into()]),
        ..pool(1, 60)
    });
    site.play(&[
        (0, "1 unreachable", ""),
        (0, "1 get b", "b INVALID"),
        (0, "1 wait b", "b INVALID"),
        (0, "1 get a,b", "a,b INVALID"),
    ]);
    site.play(&[
        (1, "1 reachable", ""),
        (60, "1 holds c", ""),
        (60, "1 release b", "b INVALID"),
        (60, "1 release c", "c OK"),
    ]);
}

#[test]
fn new_config_applies_at_once() {
    let mut site = Site::new(&pool(1, 60));
    site.play(&[
        (0, "1 get a", "a YES 1 57 s"),
        (0, "1 wait b", ""),
        (0, "1 wait c", ""),
    ]);
    let servers = Some(vec!["a".into(), "b".into()]);
    site.servers[0].reconfigure(
        vec![plan::Pool {
            servers,
            ..pool(2, 30)
        }],
        at(1),
    );
    site.play(&[
        (1, "1 tick", "c INVALID, b YES 2 28 s"),
        (2, "1 get a", "a YES 1 56 s"),
        (3, "1 frozen", ""),
        (3, "1 renew a", ""),
    ]);
    site.servers[0].reconfigure(Vec::new(), at(3));
    site.play(&[(4, "1 get a", "a INVALID")]);
    site.servers[0].reconfigure(vec![pool(1, 60)], at(5));
    site.play(&[(5, "1 get c", ""), (6, "1 thawed", "a YES 1 57 s, c NO")]);
}

#[test]
fn removed_pool_keeps_holders_which_can_still_release() {
    let mut site = Site::new(&pool(2, 0));
    site.play(&[
        (0, "1 get a", "a YES 1"),
        (0, "1 get b/r", "b/r YES 2"),
        (0, "1 wait c", ""),
    ]);
    site.servers[0].reconfigure(Vec::new(), at(1));
    site.play(&[
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
        (9, "2 get b/r", "b/r NO, revoked"),
        (10, "1 release b/r 2", "b/r OK"),
        (11, "1 tick", ""),
        (12, "1 release b/r 2", "b/r INVALID"),
    ]);
    assert!(site.servers[0].pools.iter().next().is_none());
}

#[test]
fn waiter_of_a_removed_pool_is_answered_although_its_write_failed() {
    let mut site = Site::new(&pool(1, 60));
    site.play(&[
        (0, "1 get a", "a YES 1 57 s"),
        (0, "1 release a", "a OK"),
        (0, "1 frozen", ""),
        (0, "1 wait b", ""),
        (0, "1 step", ""),
        (0, "1 step", ""),
    ]);
    site.servers[0].reconfigure(Vec::new(), at(1));
    site.play(&[
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
            let mut site = Site::new(&pool(1, 3));
            site.play(&[
                (0, "1 get a", "a YES 1 2 s"),
                (100, &format!("1 expire {expire}"), ""),
            ]);
            site.play(&[
                (200, &format!("1 {call} a"), told),
                (4000, "2 get b", "b NO"),
                (570_000, "2 get b", "b NO"),
            ]);
        }
    }
}

#[test]
fn shorter_expire_shortens_no_reported_lease_whichever_server_writes() {
    let mut site = Site::new(&pool(2, 600));
    site.play(&[
        (0, "1 get a", "a YES 1 570 s"),
        (0, "1 get b", "b YES 2 570 s"),
        (1, "1 expire 2", ""),
        (2, "1 renew b", "b YES 2 570 s"),
        (3, "1 release b", "b OK"),
        (4, "1 get c", "c YES 3 1 s"),
        (5000, "2 get d", "d NO"),
        (570_000, "2 get d", "d NO"),
    ]);
    let mut site = Site::new(&pool(2, 0));
    site.play(&[
        (0, "1 get a", "a YES 1"),
        (1, "1 expire 2", ""),
        (2, "2 expire 2", ""),
        (3, "2 get b", "b YES 2 1 s"),
    ]);
    site.play(&[
        (3_000_000, "1 get c", "c NO"),
        (3_000_001, "2 get a", "a YES 1"),
    ]);
}

#[test]
fn servers_with_different_expire_do_not_shorten_leases_of_each_other() {
    let mut site = Site::new(&pool(2, 600));
    site.play(&[
        (0, "2 expire 2", ""),
        (1, "1 get a", "a YES 1 570 s"),
        (2, "2 get b", "b YES 2 1 s"),
        (3, "2 get a", "a YES 1 570 s"),
        (5000, "2 get c", "c NO"),
        (6000, "1 get b", "b YES 2 570 s"),
        (500_000, "2 get c", "c NO"),
    ]);
    assert_eq!(site.list(), Some("a,b"));
}

#[test]
fn shortest_lease_lasts_a_second_at_any_phase_of_memcacheds_clock() {
    for start in (0..1000).step_by(50) {
        let mut site = Site::new(&pool(1, 1));
        site.play(&[
            (start, "1 get a", "a YES 1 0 s"),
            (start + 999, "2 get b", "b NO"),
        ]);
        assert!(
            site.fake
                .heard
                .contains(&"add one:lockedby 0 2 1".to_owned())
        );
    }
}

#[test]
fn token_releases_its_holding_at_any_server_after_any_restart() {
    let mut site = Site::new(&pool(1, 60));
    site.play(&[
        (0, "1 get a", "a YES 1 57 s"),
        (1, "1 release a 9", "a OK"),
        (2, "2 release a 9", "a OK"),
        (3, "2 release a 0", "a OK"),
        (4, "1 killed", ""),
        (5, "1 release a 2", "a OK"),
        (6, "1 get b", "b NO"),
        (7, "1 release a 1", "a OK"),
        (8, "2 get a", "a YES 2 57 s"),
        (9, "1 release a 1", "a OK"),
        (10, "2 release b 2", "b OK"),
        (11, "1 get b", "b NO"),
        (12, "1 release a 2", "a OK"),
        (13, "1 get b", "b YES 3 57 s"),
    ]);
}

#[test]
fn tokens_are_unique_and_the_same_at_each_server() {
    let mut site = Site::new(&pool(3, 60));
    site.happen("1 get a");
    site.happen("1 get b");
    site.play(&[
        (0, "1 wait c", "c YES 1 57 s, a YES 2 57 s, b YES 3 57 s"),
        (1, "2 get b", "b YES 3 57 s"),
        (2, "2 get a", "a YES 2 57 s"),
        (3, "2 killed", ""),
        (4, "2 get c", "c YES 1 57 s"),
        (5, "2 release a 3", "a OK"),
        (6, "1 get d", "d NO"),
    ]);
}

#[test]
fn at_most_one_run_of_a_host_holds_whichever_server_it_uses() {
    let mut site = Site::new(&pool(2, 60));
    site.play(&[
        (0, "1 get a/r", "a/r YES 1 57 s"),
        (1, "2 get a/r", "a/r YES 1 57 s"),
        (2, "2 get a/s", "a/s NO"),
        (3, "1 get a", "a NO"),
        (4, "2 renew a", "a NO"),
        (5, "2 wait a/s", ""),
        (6, "2 get b", "b YES 2 57 s"),
        (7, "1 release a/s", "a/s OK"),
        (8, "1 get c", "c NO"),
        (9, "1 release a/r", "a/r OK"),
        (260, "2 tick", "a/s YES 3 57 s"),
        (261, "1 get a/r", "a/r NO"),
        (262, "2 release a", "a OK"),
        (263, "1 get a", "a YES 4 57 s"),
        (264, "2 get a/r", "a/r YES 4 57 s"),
        (265, "2 release a/r", "a/r OK"),
        (266, "2 get a/s", "a/s YES 4 56 s"),
    ]);
}

#[test]
fn waiter_of_another_run_is_overtaken_until_its_host_releases() {
    let mut site = Site::new(&pool(2, 60));
    site.play(&[
        (0, "1 get a/r", "a/r YES 1 57 s"),
        (1, "1 wait a/s", ""),
        (2, "1 wait b", "b YES 2 57 s"),
        (3, "1 wait c", ""),
        (4, "1 release a/r", "a/r OK, c YES 3 57 s"),
        (5, "1 release b", "b OK, a/s YES 4 57 s"),
    ]);
    let mut site = Site::new(&pool(1, 60));
    site.play(&[
        (0, "1 get a/r", "a/r YES 1 57 s"),
        (1, "1 wait a/s", ""),
        (2, "1 release a/r 1", "a/r OK, a/s YES 2 57 s"),
        (3, "1 release a/r 1", "a/r OK"),
        (4, "2 get a/s", "a/s YES 2 57 s"),
    ]);
}

#[test]
fn revoked_holding_is_confirmed_at_no_server_and_ends_by_release() {
    let mut site = Site::new(&pool(1, 60));
    site.play(&[
        (0, "1 revoke a", "a not held"),
        (0, "1 get a/r", "a/r YES 1 57 s"),
        (0, "1 wait b", ""),
        (10_000, "2 revoke a", "a revoked 1 for 51 s"),
        (10_001, "2 revoke a", "a revoked 1 for 51 s"),
        (10_002, "1 renew a/r", "a/r NO, revoked"),
        (10_003, "2 get a/r", "a/r NO, revoked"),
        (10_004, "2 wait a/r", "a/r NO, revoked"),
        (10_005, "1 get a/s", "a/s NO"),
        (10_006, "2 get c", "c NO"),
        (10_007, "1 release a/r 1", "a/r OK, b YES 2 57 s"),
        (10_008, "2 revoke a", "a not held"),
        (10_009, "2 release b", "b OK"),
        (10_010, "2 get a/r", "a/r YES 3 57 s"),
    ]);
    let mut site = Site::new(&pool(1, 0));
    site.fake.is_old = true;
    site.play(&[
        (0, "1 get a", "a YES 1"),
        (1, "2 revoke a", "a revoked 1 until released"),
        (2, "1 get a", "a NO, revoked"),
    ]);
    site.play(&[
        (3, "1 holds x", ""),
        (4, "1 revoke x", "x revoked 2 until released"),
        (5, "2 get x", "x NO, revoked"),
    ]);
}

#[test]
fn list_written_by_the_original_overrides_the_leases() {
    let mut site = Site::new(&pool(2, 60));
    site.play(&[
        (0, "1 get a/r", "a/r YES 1 57 s"),
        (1, "1 holds b", ""), // it releases a
        (2, "2 get a/s", "a/s YES 2 57 s"),
        (3, "1 release a/r 1", "a/r OK"),
        (4, "1 get a/r", "a/r NO"),
        (5, "1 get b/r", "b/r YES 3 57 s"),
        (6, "2 get b/s", "b/s YES 3 56 s"),
        (7, "2 release b/s", "b/s OK"),
        (8, "2 get c", "c NO"),
        (9, "1 release b", "b OK"),
        (10, "1 release a/s 2", "a/s OK"),
    ]);
    assert_eq!(
        (site.list(), site.fake.value("one:leases")),
        (Some(""), Some("1"))
    );
    site.play(&[
        (11, "1 holds a", ""),
        (12, "2 release a/s 2", "a/s OK"),
        (13, "2 get a", "a YES 4 57 s"),
    ]);
}

#[test]
fn server_that_dies_between_its_writes_leaves_no_holder() {
    let mut site = Site::new(&pool(1, 60));
    site.play(&[
        (0, "1 get z", "z YES 1 57 s"),
        (0, "1 release z", "z OK"),
        (0, "1 frozen", ""),
        (0, "1 get a/r", ""),
    ]);
    site.play(&[
        (0, "1 step", ""),
        (0, "1 step", ""),
        (0, "1 step", ""),
        (0, "1 killed", ""),
        (1, "1 thawed", ""),
    ]);
    assert!(site.fake.value("one:leases").unwrap().contains("a,") && site.list() == Some(""));
    site.play(&[
        (2, "2 get a/s", ""),
        (200, "2 tick", ""),
        (250, "2 tick", ""),
        (270, "2 tick", "a/s YES 3 57 s"),
    ]);
    site.play(&[
        (271, "1 get a/r", "a/r NO"),
        (272, "1 release a/s 3", "a/s OK"),
        (273, "1 get b", "b YES 4 57 s"),
    ]);
}

#[test]
fn write_of_a_slow_server_is_awaited_or_fenced_off() {
    for (resumed, first, second) in [
        (100, "a/r YES 3 56 s", "a/s NO"),
        (300, "", "a/s YES 4 57 s"),
    ] {
        let mut site = Site::new(&pool(1, 60));
        site.play(&[
            (0, "1 get z", "z YES 1 57 s"),
            (0, "1 release z", "z OK"),
            (0, "2 get z", "z YES 2 57 s"),
            (0, "2 release z", "z OK"),
        ]);
        site.happen("1 get a/r");
        for _ in 0..3 {
            site.act(0);
            site.execute(0);
        }
        site.act(0); // its next step writes the list
        let write = std::mem::take(&mut site.unread[0]);
        site.happen("2 get a/s");
        site.act(1);
        for time in 1..400 {
            site.now = at(time);
            site.servers[1].handle(Input::Tick, site.now);
            if time == resumed {
                site.unread[0].clone_from(&write);
                site.execute(0);
                assert_eq!(site.act(0), first, "{resumed}");
            }
            let said = site.act(1);
            assert!(said.is_empty() || said == second, "{resumed}: {said}");
            if said == second {
                if time < resumed {
                    site.unread[0].clone_from(&write);
                    site.execute(0);
                }
                site.play(&[(500, "1 tick", if first.is_empty() { "a/r NO" } else { "" })]);
                break;
            }
        }
    }
}

#[test]
fn malformed_leases_grant_nothing_and_are_not_overwritten() {
    const WHY: &str = "a 503 in memcached, one:leases is not understood: another version of distributexd, or another program, wrote it; if no client holds the pool, delete one:leases and one:lockedby";
    for garbage in ["2", "1\na,x", "<html>", ""] {
        let mut site = Site::new(&pool(2, 60));
        site.fake.put("one:leases", garbage, Moment::NEVER);
        site.play(&[
            (0, "1 holds a", ""),
            (1, "1 get a", ""),
            (1000, "1 tick", WHY),
        ]);
        assert_eq!(
            (site.list(), site.fake.value("one:leases")),
            (Some("a"), Some(garbage))
        );
        site.play(&[
            (1001, "1 holds ", ""),
            (1300, "1 get a", "a YES 1 57 s"),
            (1301, "2 get a", "a YES 1 57 s"),
        ]);
    }
}

#[test]
fn all_servers_report_the_same_and_unknown_values_are_left_out() {
    let mut site = Site::new(&pool(3, 60));
    site.play(&[
        (0, "1 get a/r", "a/r YES 1 57 s"),
        (1000, "2 get b", "b YES 2 57 s"),
        (1001, "2 revoke b", "b revoked 2 for 61 s"),
    ]);
    let both = "[a/r 1 10 s, for 51 s; b 2 9 s, for 51 s, revoked] 0 ms old";
    site.play(&[(10_900, "1 report", both), (10_900, "2 report", both)]);
    let asked = site.fake.heard.len();
    site.play(&[(
        11_100,
        "1 report",
        "[a/r 1 11 s, for 50 s; b 2 10 s, for 50 s, revoked] 200 ms old",
    )]);
    assert_eq!(site.fake.heard.len(), asked, "it was read just now");
    site.play(&[
        (11_200, "1 holds a,x", ""),
        (
            12_000,
            "2 report",
            "[a/r 1 12 s, until released; x ? ? s, until released] 0 ms old",
        ),
    ]);
    site.fake.is_old = true;
    site.play(&[(
        13_000,
        "1 report",
        "[a/r 1 13 s, for an unknown time; x ? ? s, for an unknown time] 0 ms old",
    )]);
    site.play(&[
        (90_000, "1 killed", ""),
        (90_001, "1 holds ", ""),
        (90_002, "1 report", "[] 0 ms old"),
    ]);
}

#[test]
fn report_is_unavailable_without_memcached() {
    const WHY: &str = "report 503 cannot ask memcached at h:11211: it closed the connection";
    let mut site = Site::new(&pool(1, 60));
    site.play(&[
        (0, "1 get a", "a YES 1 57 s"),
        (1000, "1 frozen", ""),
        (1000, "1 report", ""),
        (1899, "1 tick", ""),
    ]);
    site.play(&[
        (1900, "1 tick", "report 503 memcached does not answer"),
        (1901, "1 report", ""),
        (2000, "1 unreachable", WHY),
    ]);
    site.play(&[(2001, "1 report", WHY)]);
    // A report that was read before the outage is not shown after it.
    let mut site = Site::new(&pool(1, 60));
    site.play(&[
        (0, "1 get a", "a YES 1 57 s"),
        (1, "1 report", "[a 1 0 s, for 60 s] 0 ms old"),
        (2, "1 unreachable", ""),
    ]);
    site.fake.forget();
    site.play(&[
        (3, "1 reachable", ""),
        (60, "1 tick", ""),
        (61, "1 report", "[] 0 ms old"),
    ]);
    let Output::Wait(_) = site.servers[0].poll(site.now) else {
        panic!("nothing is asked")
    };
}
