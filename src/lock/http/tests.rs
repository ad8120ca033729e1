use super::*;
use crate::http::{Request, Terms};
use crate::testing::{self, Connection, Delivery, Driver, Peer};
use crate::transport::Address;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);
const KILL_AFTER: Duration = Duration::from_secs(5);
const LOCK: &str = "p@dx:9889";

fn at(milliseconds: u64) -> Moment {
    Moment(Duration::from_secs(1000) + Duration::from_millis(milliseconds))
}

/// What the server does with one connection.
#[derive(Clone, Copy, Debug)]
enum Does {
    /// The port is closed.
    Refuses,
    /// Packets get no answer.
    IsOff,
    /// Answers this many ms after the request, as the Python server does.
    Says(u64, &'static str),
    /// Grants slot number N for this many ms, as distributexd does.
    Lends(u64, i64, u64),
    /// Grants slot number N with this value of `X-Lock-Expires`.
    Tells(u64, i64, &'static str),
    /// Grants slot number N until it is released, as distributexd does.
    Gives(u64, i64),
    /// INVALID with this value of `X-Lock-Error`.
    Objects(u64, &'static str),
    /// NO, because an operator has revoked the lock.
    Revokes(u64),
    /// NO, because the slots are those of the outer runs.
    IsOuter(u64),
    /// Refuses access with this status.
    Denies(u64, u16),
    /// Receives the request and closes the connection this many ms later.
    HangsUp(u64),
    /// The same with bytes that are not HTTP.
    Resets(u64),
    /// Sends nothing, and closes when the client has finished.
    Waits,
    /// Sends nothing and keeps the connection.
    Freezes,
}
use Does::*;

/// A server with a script: a line for each connection, the last one for all that follow.
struct Server {
    script: Vec<Does>,
    /// What becomes of the connection, and when.
    open: Option<(Does, Moment)>,
    connections: usize,
    run: String,
    /// The requests: `wait`, `release 7`.
    asked: Vec<String>,
}

impl Peer<Address> for Server {
    fn connect(&mut self, _: Address, _: Moment) -> testing::Reply {
        let does = self.script[self.connections.min(self.script.len() - 1)];
        self.connections += 1;
        match does {
            Refuses => testing::Reply::Refused("connection refused".into()),
            IsOff => testing::Reply::Silence,
            _ => {
                self.open = Some((does, Moment::NEVER));
                testing::Reply::Accepted(self.connections)
            }
        }
    }

    fn receive(&mut self, _: Connection, bytes: &[u8], now: Moment) {
        let (request, length) = Request::read(bytes).unwrap().unwrap();
        let parameter = |name| {
            request
                .parameter(name)
                .map(|value| String::from_utf8(value).unwrap())
        };
        assert_eq!(
            (
                length,
                parameter("pool").as_deref(),
                parameter("host").as_deref()
            ),
            (bytes.len(), Some("p"), Some("web1"))
        );
        assert_eq!(
            parameter("run").as_deref(),
            Some(self.run.as_str()),
            "of every request"
        );
        let token = parameter("token").map_or_else(String::new, |token| format!(" {token}"));
        let outer = parameter("outer").map_or_else(String::new, |outer| format!(" under {outer}"));
        self.asked
            .push(request.path.trim_matches('/').to_owned() + &token + &outer);
        let (does, due) = self.open.as_mut().expect("there is a connection");
        if let Says(ms, _)
        | Lends(ms, ..)
        | Tells(ms, ..)
        | Gives(ms, _)
        | Objects(ms, _)
        | Revokes(ms)
        | IsOuter(ms)
        | Denies(ms, _)
        | HangsUp(ms)
        | Resets(ms) = *does
        {
            *due = now + Duration::from_millis(ms);
        }
    }

    fn shut_down(&mut self, _: Connection, now: Moment) {
        if let Some((Waits, due)) = &mut self.open {
            *due = now + Duration::from_millis(1);
        }
    }

    fn close(&mut self, _: Connection) {
        self.open = None;
    }

    fn deliver(&mut self, _: Connection, now: Moment) -> Option<Delivery> {
        let (does, _) = self.open.filter(|(_, due)| *due <= now)?;
        let yes = |token| Reply::new(200, "text/html", "YES").with("X-Lock-Token", token);
        let reply = match does {
            Says(_, word) => Reply::new(200, "text/html", word),
            Lends(_, token, ms) => {
                yes(token).with("X-Lock-Expires", Duration::from_millis(ms).as_secs_f64())
            }
            Tells(_, token, expires) => yes(token).with("X-Lock-Expires", expires),
            Gives(_, token) => yes(token),
            Objects(_, why) => Reply::new(200, "text/html", "INVALID").with("X-Lock-Error", why),
            Revokes(_) => Reply::new(200, "text/html", "NO").with("X-Lock-Revoked", 1),
            IsOuter(_) => Reply::new(200, "text/html", "NO").with("X-Lock-Outer", 1),
            Denies(_, status) => Reply::new(status, "text/plain", "").with("X-Lock-Error", "why"),
            Resets(_) => return Some(Delivery::End(Some("connection reset by peer".into()))),
            _ => return Some(Delivery::End(None)),
        };
        let mut bytes = Vec::new();
        reply.write(Terms::UNREADABLE, "", &mut bytes);
        self.open = Some((HangsUp(0), now));
        Some(Delivery::Bytes(bytes))
    }

    fn due(&self, _: Connection) -> Moment {
        self.open.map_or(Moment::NEVER, |(_, due)| due)
    }
}

/// A lock and its server.
struct Play {
    driver: Driver<PoolLock>,
    server: Server,
    said: Vec<Output>,
    /// When look-ups of names were requested.
    lookups: Vec<Moment>,
}

impl Play {
    fn new(options: Options, script: &[Does]) -> Play {
        let server = Server {
            script: script.to_vec(),
            open: None,
            connections: 0,
            run: options.run_id.clone(),
            asked: vec![],
        };
        Play {
            driver: Driver::new(PoolLock::new(options, at(0), at(0)), at(0)),
            server,
            said: vec![],
            lookups: vec![],
        }
    }

    /// Advances time to this moment, with all events until then.
    #[track_caller]
    fn to(&mut self, moment: Moment) -> &mut Play {
        while let Some(output) = self.driver.advance(&mut self.server, moment) {
            match output {
                Output::LookUp => self.lookups.push(self.driver.now()),
                Output::Event(Event::Note(_)) => {}
                output => self.said.push(output),
            }
        }
        self
    }

    fn now(&self) -> Moment {
        self.driver.now()
    }

    fn input(&mut self, input: Input) {
        let now = self.now();
        self.driver.input(now, |lock| lock.handle(input, now));
    }

    fn release(&mut self) -> &mut Play {
        self.input(Input::Release);
        self.to(self.now())
    }

    #[track_caller]
    fn said(&mut self, expected: &[Output]) -> &mut Play {
        assert_eq!(
            std::mem::take(&mut self.said),
            expected,
            "at {:?}",
            self.now().since(at(0))
        );
        self
    }

    #[track_caller]
    fn asked(&mut self, expected: &[&str]) -> &mut Play {
        assert_eq!(std::mem::take(&mut self.server.asked), expected);
        self
    }
}

fn options() -> Options {
    Options {
        addresses: vec!["dx:9889".into()],
        server: LockServer::of_tests(),
        pool: "p".into(),
        host: "web1".into(),
        run_id: "5f".repeat(16),
        inherited: false,
        wait_until: Some(Moment::NEVER),
        reach_by: None,
        only_run: true,
        outer: vec![],
        kill_after: KILL_AFTER,
    }
}

/// With `-w`.
fn patient(wait: u64) -> Options {
    let reach_by = Some(at(wait).max(at(0) + OUTAGE_TIMEOUT));
    Options {
        wait_until: Some(at(wait)).filter(|_| wait > 0),
        reach_by,
        ..options()
    }
}

#[test]
fn a_wait_for_the_slots_of_outer_runs_is_an_error_at_once() {
    let nested = |options| Options {
        outer: vec![7, 5],
        ..options
    };
    let circular = Output::Event(Event::Failed(circular(LOCK, "token 7,5")));
    let mut play = Play::new(nested(options()), &[IsOuter(1)]);
    play.to(at(10)).said(&[circular]).asked(&["wait under 7,5"]);
    assert!(!play.driver.machine.unsettled());
    play.release().said(&[RELEASED]).asked(&[]);
    let mut play = Play::new(nested(options()), &[Lends(1, 9, 30_000)]);
    play.to(at(10)).asked(&["wait under 7,5", "renew 9"]);
    let mut play = Play::new(nested(patient(0)), &[Says(1, "NO")]);
    play.to(at(10)).asked(&["get"]);
}

#[test]
fn refused_access_is_an_error_at_once_and_a_held_slot_ends_with_its_lease() {
    for (status, why) in [
        (
            401,
            "the server answered 401 Unauthorized (why): use --access-token-file FILE",
        ),
        (
            403,
            "the server answered 403 Forbidden (why): the config of the server, or of a proxy \
             before it, does not allow this",
        ),
    ] {
        let failed = Output::Event(Event::Failed(Failure::Refused {
            what: format!("acquire {LOCK}"),
            why: why.into(),
        }));
        let mut play = Play::new(options(), &[Denies(1, status)]);
        play.to(at(10)).said(&[failed]);
        play.release().said(&[RELEASED]).asked(&["wait"]);
    }
    let lends = Lends(0, 7, 30_000);
    let mut play = Play::new(options(), &[lends, lends, Denies(0, 401)]);
    let suspended = Event::Suspended("dx:9889 said 401 Unauthorized".into());
    play.to(at(15_000)).said(&[
        believe(at(30_000)),
        acquired(Some(7)),
        Output::Event(suspended),
    ]);
}

fn acquired(token: Option<i64>) -> Output {
    Output::Event(Event::Acquired(Proof {
        lock: LOCK.into(),
        token,
        session: None,
    }))
}

fn believe(until: Moment) -> Output {
    Output::Event(Event::LeaseUntil(Deadlines {
        term: until.before(Duration::from_millis(1200)),
        kill: until.before(Duration::from_millis(200)),
    }))
}

fn holder() -> Holder {
    Holder {
        lock: LOCK.into(),
        host: None,
        since: None,
        session: None,
    }
}

fn doubt(text: &str) -> Output {
    Output::Event(Event::Released {
        doubt: Some(text.into()),
    })
}

fn waiting() -> Output {
    Output::Event(Event::Waiting {
        holder: holder(),
        position: None,
    })
}

fn unreachable(why: &str) -> Output {
    Output::Event(Event::Failed(Failure::Unreachable(why.into())))
}

const RELEASED: Output = Output::Event(Event::Released { doubt: None });

const DAY: u64 = 86_400_000;

#[test]
fn slot_of_the_python_server_is_held_until_released() {
    let mut play = Play::new(options(), &[Says(180, "YES"), Says(1, "OK")]);
    play.to(at(DAY)).said(&[acquired(None)]).asked(&["wait"]);
    play.release()
        .to(at(DAY + 1))
        .said(&[RELEASED])
        .asked(&["release"]);
    assert_eq!(play.driver.wait(), Moment::NEVER);
}

#[test]
fn lease_is_renewed_at_once_and_at_each_third_and_released_by_token() {
    let mut play = Play::new(
        options(),
        &[
            Lends(0, 7, 30_000),
            Lends(0, 7, 30_000),
            Lends(5, 7, 30_000),
            Lends(5, 7, 30_000),
            Says(1, "OK"),
        ],
    );
    play.to(at(9_999))
        .said(&[believe(at(30_000)), acquired(Some(7))])
        .asked(&["wait", "renew 7"]);
    play.to(at(19_999))
        .said(&[believe(at(40_000))])
        .asked(&["renew 7"]);
    play.to(at(25_000))
        .said(&[believe(at(50_000))])
        .asked(&["renew 7"]);
    play.release()
        .to(at(25_001))
        .said(&[RELEASED])
        .asked(&["release 7"]);
}

#[test]
fn refusal_names_the_reason_that_the_server_gives() {
    for (why, said) in [
        (
            "unknown pool",
            "INVALID: unknown pool \"p\" (add it to \"pools\" in its config)",
        ),
        (
            "host not allowed",
            "INVALID: the host \"web1\" may not use the pool \"p\" (add it to \"servers\" of the pool)",
        ),
        ("bad host name", "INVALID: bad host name"),
        ("any other", "INVALID: any other"),
    ] {
        let mut play = Play::new(patient(0), &[Objects(1, why)]);
        let denied = Failure::Denied(said.into());
        play.to(at(100))
            .said(&[Output::Event(Event::Failed(denied))])
            .asked(&["get"]);
    }
}

#[test]
fn one_try_ends_with_the_first_reply() {
    let busy = Output::Event(Event::Busy(holder()));
    let denied = |said: &str| Output::Event(Event::Failed(Failure::Denied(said.into())));
    for (word, outcome) in [
        ("NO", busy),
        (
            "INVALID",
            denied(
                "INVALID (check that it has a pool \"p\" and that the host \"web1\" may use it)",
            ),
        ),
        ("maybe", denied("maybe")),
        ("", denied("nothing")),
    ] {
        let mut play = Play::new(patient(0), &[Says(1, word)]);
        play.to(at(100))
            .said(&[outcome])
            .asked(&["get"])
            .release()
            .said(&[RELEASED])
            .asked(&[]);
        assert_eq!(
            play.server.connections, 1,
            "nothing is left to be given back"
        );
    }
    let mut play = Play::new(patient(0), &[Says(1, "YES"), Says(1, "OK")]);
    play.to(at(100))
        .said(&[acquired(None)])
        .release()
        .to(at(200))
        .said(&[RELEASED])
        .asked(&["get", "release"]);
}

#[test]
fn waiter_fails_on_any_reply_but_yes() {
    let mut play = Play::new(options(), &[Says(1, "NO")]);
    play.to(at(100))
        .said(&[Output::Event(Event::Failed(Failure::Denied("NO".into())))]);
}

#[test]
fn waiting_is_reported_once() {
    let mut play = Play::new(options(), &[HangsUp(5000), Waits]);
    play.to(at(499))
        .said(&[])
        .to(at(500))
        .said(&[waiting()])
        .to(at(DAY))
        .said(&[])
        .asked(&["wait", "wait"]);
}

#[test]
fn granted_slot_is_held_once_the_server_knows_the_reply_arrived() {
    for came in [1, 3_600_000] {
        let mut play = Play::new(
            patient(DAY),
            &[Lends(came, 7, 30_000), Lends(5, 7, 30_000), Waits],
        );
        play.to(at(came + 4))
            .said
            .retain(|output| *output != waiting());
        play.said(&[]).asked(&["wait", "renew 7"]);
        play.to(at(came + 5))
            .said(&[believe(at(came + 30_000)), acquired(Some(7))])
            .asked(&[]);
    }
}

/// The server may assume that the reply with another token was not received. Servers that share a
/// memcached count separately, so each reply may have another token.
#[test]
fn slot_with_another_token_is_confirmed_again_but_once() {
    for then in [8, 9] {
        let mut play = Play::new(
            options(),
            &[
                Lends(0, 7, 30_000),
                Lends(0, 8, 30_000),
                Lends(5, then, 30_000),
                Waits,
            ],
        );
        play.to(at(105))
            .said(&[believe(at(30_100)), acquired(Some(then))])
            .asked(&["wait", "renew 7", "renew 8"]);
    }
}

#[test]
fn slot_taken_back_before_confirmation_was_never_acquired() {
    let mut play = Play::new(
        options(),
        &[Lends(1, 7, 30_000), Refuses, Says(1, "NO"), Waits],
    );
    play.to(at(DAY))
        .said(&[waiting()])
        .asked(&["wait", "renew 7", "wait"]);
}

#[test]
fn slot_denied_at_confirmation_is_requested_again() {
    let mut play = Play::new(
        options(),
        &[
            Lends(20_000, 7, 30_000),
            Says(1, "NO"),
            Lends(5, 9, 30_000),
            Lends(5, 9, 30_000),
            Says(1, "OK"),
        ],
    );
    play.to(at(20_111))
        .said(&[waiting(), believe(at(50_106)), acquired(Some(9))])
        .asked(&["wait", "renew 7", "wait", "renew 9"]);
    play.release().to(at(20_120)).asked(&["release 9"]);
}

fn refused(why: &str, advice: &str) -> Output {
    Output::Event(Event::Failed(Failure::IncompatibleLock(format!(
        "cannot acquire {LOCK}: dx:9889 said \"X-Lock-Expires: {why}: {advice}"
    ))))
}

const RAISE: &str = "raise \"expire\" of the pool on the server, to 2 seconds or more";

#[test]
fn too_short_lease_is_refused_and_released() {
    let mut play = Play::new(
        options(),
        &[Lends(0, 7, 900), Lends(0, 7, 900), Says(1, "OK")],
    );
    let why = "0.9\", which is too short a lease to hold the lock safely";
    play.to(at(100))
        .said(&[refused(why, RAISE)])
        .asked(&["wait", "renew 7"]);
    play.release()
        .to(at(200))
        .said(&[RELEASED])
        .asked(&["release 7"]);
}

/// The lease that came with the slot may be the rest of an earlier grant: only the reply to the
/// renewal counts.
#[test]
fn nearly_ended_lease_is_renewed_before_it_is_used() {
    let mut play = Play::new(options(), &[Lends(0, 7, 300), Lends(0, 7, 30_000), Waits]);
    play.to(at(100))
        .said(&[believe(at(30_000)), acquired(Some(7))])
        .asked(&["wait", "renew 7"]);

    let mut play = Play::new(
        options(),
        &[Tells(0, 7, "1e-9"), Lends(100, 7, 30_000), Waits],
    );
    play.to(at(200))
        .said(&[believe(at(30_000)), acquired(Some(7))])
        .asked(&["wait", "renew 7"]);
}

/// Each row was once a lock without end.
const NO_LEASES: [(&str, &str, &str); 7] = [
    ("0", "which is a lease that has already ended", RAISE),
    ("-5", "which is a lease that has already ended", RAISE),
    ("nan", "which is not a number of seconds", CHECK),
    ("inf", "which is not a number of seconds", CHECK),
    ("1e300", "which is not a number of seconds", CHECK),
    ("30s", "which is not a number of seconds", CHECK),
    ("", "which is not a number of seconds", CHECK),
];
const CHECK: &str = "check the lock server and any proxy in front of it";

#[test]
fn invalid_lease_is_refused_and_released() {
    for (expires, why, advice) in NO_LEASES {
        for first in [0, 1] {
            let script = [
                &[Lends(0, 7, 30_000)][..first],
                &[Tells(1, 7, expires), Says(1, "OK")],
            ]
            .concat();
            for (options, asks) in [(options(), "wait"), (patient(0), "get")] {
                let mut play = Play::new(options, &script);
                play.to(at(DAY))
                    .said(&[refused(&format!("{expires}\", {why}"), advice)])
                    .asked(&[asks, "renew 7"][..=first]);
                play.release()
                    .to(at(DAY + 10))
                    .said(&[RELEASED])
                    .asked(&["release 7"]);
            }
        }
    }
}

#[test]
fn renewal_with_an_unusable_lease_leaves_the_held_lease_unchanged() {
    for (expires, why, _) in NO_LEASES {
        let mut play = Play::new(
            options(),
            &[
                Lends(0, 7, 30_000),
                Lends(0, 7, 30_000),
                Tells(5, 7, expires),
            ],
        );
        play.to(at(28_799)).said(&[
            believe(at(30_000)),
            acquired(Some(7)),
            Output::Event(Event::Suspended(format!(
                "dx:9889 said \"X-Lock-Expires: {expires}\", {why}"
            ))),
        ]);
        assert!(
            play.server.asked.len() > 3,
            "it is asked again: {:?}",
            play.server.asked
        );
        let why =
            format!("not renewed for 28.8 s: dx:9889 said \"X-Lock-Expires: {expires}\", {why}");
        play.to(at(28_800)).said(&[Output::Event(Event::Lost {
            why,
            kill_deadline: at(29_800),
            gone: false,
        })]);

        let mut play = Play::new(
            options(),
            &[
                Lends(0, 7, 30_000),
                Lends(0, 7, 30_000),
                Tells(5, 7, expires),
                Lends(5, 7, 30_000),
                Waits,
            ],
        );
        play.to(at(10_005)).said.clear();
        play.to(at(22_000))
            .said(&[believe(at(43_005)), Output::Event(Event::Resumed)]);
    }
}

/// The server says so, and the lease ends sooner; but another lease of that kind does not extend
/// it.
#[test]
fn too_short_renewal_can_only_shorten_the_held_lease() {
    let mut play = Play::new(
        options(),
        &[Lends(0, 7, 30_000), Lends(0, 7, 30_000), Lends(5, 7, 800)],
    );
    play.to(at(9_999))
        .said(&[believe(at(30_000)), acquired(Some(7))]);
    let short = Lease {
        length: Duration::from_millis(800),
        sent: at(10_000),
    }
    .deadlines(KILL_AFTER);
    let why =
        "dx:9889 said \"X-Lock-Expires: 0.8\", which is too short a lease to hold the lock safely";
    play.to(at(10_400)).said(&[
        Output::Event(Event::LeaseUntil(short)),
        Output::Event(Event::Suspended(why.into())),
    ]);
    play.to(short.term);
    assert!(
        matches!(play.said[..], [Output::Event(Event::Lost { kill_deadline, .. })] if kill_deadline == short.kill),
        "{:?}",
        play.said
    );

    let mut play = Play::new(
        options(),
        &[
            Lends(0, 7, 30_000),
            Lends(0, 7, 30_000),
            Tells(500, 7, "0.1"),
        ],
    );
    play.to(at(9_999)).said.clear();
    play.to(at(10_500));
    let [.., Output::Event(Event::Lost { why, .. })] = &play.said[..] else {
        panic!("{:?}", play.said)
    };
    assert!(why.contains("too short a lease"), "{why}");

    let mut play = Play::new(
        options(),
        &[
            Lends(0, 7, 1_500),
            Lends(0, 7, 1_500),
            IsOff,
            IsOff,
            IsOff,
            Lends(5, 7, 900),
        ],
    );
    let first = Lease {
        length: Duration::from_millis(1_500),
        sent: at(0),
    }
    .deadlines(KILL_AFTER);
    play.to(first.term)
        .said
        .retain(|output| !matches!(output, Output::Event(Event::Suspended(_))));
    assert!(
        matches!(&play.said[..], [Output::Event(Event::LeaseUntil(_)), Output::Event(Event::Acquired(_)), Output::Event(Event::Lost { kill_deadline, .. })] if *kill_deadline == first.kill)
    );
}

#[test]
fn holder_survives_an_outage_until_its_lease_ends() {
    let mut play = Play::new(
        options(),
        &[
            Lends(0, 7, 30_000),
            Lends(0, 7, 30_000),
            Refuses,
            HangsUp(5),
            Freezes,
            IsOff,
            Lends(5, 7, 30_000),
        ],
    );
    play.to(at(9_999))
        .said(&[believe(at(30_000)), acquired(Some(7))]);
    play.to(at(15_000)).said(&[Output::Event(Event::Suspended(
        "dx:9889: connection refused".into(),
    ))]);
    play.to(at(27_000))
        .said(&[believe(at(47_505)), Output::Event(Event::Resumed)])
        .asked(&["wait", "renew 7", "renew 7", "renew 7", "renew 7"]);
}

#[test]
fn short_lease_has_a_short_reply_timeout() {
    let mut play = Play::new(
        options(),
        &[
            Lends(0, 7, 3_000),
            Lends(0, 7, 3_000),
            Freezes,
            IsOff,
            Lends(5, 7, 3_000),
        ],
    );
    let until = |ms| {
        Output::Event(Event::LeaseUntil(
            Lease {
                length: 3 * SECOND,
                sent: at(ms),
            }
            .deadlines(KILL_AFTER),
        ))
    };
    play.to(at(999)).said(&[until(0), acquired(Some(7))]);
    play.to(at(2_500)).said(&[
        Output::Event(Event::Suspended("dx:9889: no answer for 0.5 s".into())),
        until(2_300),
        Output::Event(Event::Resumed),
    ]);
}

#[test]
fn ended_lease_is_lost_in_time_and_its_release_is_brief() {
    let mut play = Play::new(
        options(),
        &[Lends(0, 7, 30_000), Lends(0, 7, 30_000), Refuses],
    );
    play.to(at(28_799)).said(&[
        believe(at(30_000)),
        acquired(Some(7)),
        Output::Event(Event::Suspended("dx:9889: connection refused".into())),
    ]);
    let why = "not renewed for 28.8 s: dx:9889: connection refused";
    play.to(at(28_800)).said(&[Output::Event(Event::Lost {
        why: why.into(),
        kill_deadline: at(29_800),
        gone: false,
    })]);
    // Normally the command is dead before the lease ends.
    play.to(at(29_500)).said(&[]);
    play.release()
        .to(at(30_499))
        .said(&[])
        .to(at(30_500))
        .said(&[RELEASED]);
}

/// A process of the command cannot be killed: no other run should get the slot while the server
/// keeps it.
#[test]
fn lost_slot_is_renewed_until_released_or_denied() {
    let lost = |play: &mut Play| {
        play.to(at(28_800));
        assert!(
            matches!(play.said[..], [.., Output::Event(Event::Lost { kill_deadline, gone: false, .. })] if kill_deadline == at(29_800)),
            "{:?}",
            play.said
        );
        play.said.clear();
        play.server.asked.clear();
    };
    // The server returns in time: the slot is held, although no command may run under it, and is
    // released by its token.
    let script = [
        &[Lends(0, 7, 30_000); 2][..],
        &[Refuses; 24],
        &[Lends(5, 7, 30_000), Lends(5, 7, 30_000), Says(1, "OK")],
    ]
    .concat();
    let mut play = Play::new(options(), &script);
    lost(&mut play);
    play.to(at(50_000)).said(&[]).asked(&["renew 7", "renew 7"]);
    play.release()
        .to(at(50_001))
        .said(&[RELEASED])
        .asked(&["release 7"]);
    // Another run holds it.
    for no in [Says(5, "NO"), Revokes(5)] {
        let script = [
            &[Lends(0, 7, 30_000); 2][..],
            &[Refuses; 24],
            &[Says(5, "INVALID"), Tells(5, 7, "nan"), no],
        ]
        .concat();
        let mut play = Play::new(options(), &script);
        lost(&mut play);
        play.to(at(60_000))
            .said(&[Output::Event(Event::Gone("dx:9889 said NO".into()))])
            .asked(&["renew 7", "renew 7", "renew 7"]);
        play.release().said(&[RELEASED]).asked(&[]);
    }
}

#[test]
fn server_name_is_looked_up_again_while_the_server_is_unreachable() {
    // A waiter looks up after 1 s, again 1 s after the reply, then after 2 s.
    let mut play = Play::new(patient(600_000), &[Refuses]);
    play.to(at(1_500));
    assert_eq!(play.lookups, [at(1_000)]);
    for (answered, next) in [
        (1_500, 2_500),
        (2_500, 4_500),
        (4_500, 8_500),
        (8_500, 13_500),
    ] {
        assert_eq!(play.now(), at(answered));
        play.input(Input::LookUp(Found::default()));
        play.to(at(next));
        assert_eq!(play.lookups.last(), Some(&at(next)));
    }
    // A holder looks up more often.
    let mut play = Play::new(
        options(),
        &[Lends(0, 7, 30_000), Lends(0, 7, 30_000), Refuses],
    );
    play.to(at(10_500));
    assert_eq!(play.lookups, []);
    play.to(at(11_000));
    assert_eq!(play.lookups, [at(11_000)]);
    for second in 11..15 {
        play.input(Input::LookUp(Found::default()));
        play.to(at((second + 1) * 1_000));
    }
    assert_eq!(play.lookups.len(), 5, "{:?}", play.lookups);
    // A waiter whose request the server holds never looks up.
    let mut play = Play::new(patient(600_000), &[Waits]);
    play.to(at(500_000));
    assert_eq!(play.lookups, []);
}

#[test]
fn stopped_process_is_named_as_the_reason_of_a_loss() {
    let mut play = Play::new(
        options(),
        &[Lends(0, 7, 30_000), Lends(0, 7, 30_000), Waits],
    );
    play.to(at(9_000))
        .said(&[believe(at(30_000)), acquired(Some(7))]);
    play.driver.jump(at(60_000));
    play.to(at(60_000));
    play.said(&[Output::Event(Event::Lost {
        why: "this process was stopped for 50.0 s".into(),
        kill_deadline: at(29_800),
        gone: false,
    })]);
}

#[test]
fn process_stopped_between_waits_is_named_too() {
    let mut play = Play::new(
        options(),
        &[Lends(0, 7, 30_000), Lends(0, 7, 30_000), Waits],
    );
    play.to(at(9_000))
        .said(&[believe(at(30_000)), acquired(Some(7))]);
    play.driver.jump(at(9_000));
    play.driver.jump(at(60_000));
    play.to(at(60_000));
    play.said(&[Output::Event(Event::Lost {
        why: "this process was stopped for 50.0 s".into(),
        kill_deadline: at(29_800),
        gone: false,
    })]);
}

#[test]
fn slot_denied_by_the_server_is_lost_at_once() {
    let mut play = Play::new(
        options(),
        &[Lends(0, 7, 30_000), Lends(0, 7, 30_000), Says(5, "NO")],
    );
    play.to(at(9_999))
        .said(&[believe(at(30_000)), acquired(Some(7))]);
    let why = "dx:9889 no longer has this run as holder";
    play.to(at(10_005)).said(&[Output::Event(Event::Lost {
        why: why.into(),
        kill_deadline: at(10_005),
        gone: true,
    })]);
    play.release()
        .said(&[RELEASED])
        .asked(&["wait", "renew 7", "renew 7"]);
}

#[test]
fn changed_token_at_renewal_is_a_warning() {
    let mut play = Play::new(
        options(),
        &[
            Lends(0, 7, 30_000),
            Lends(0, 7, 30_000),
            Lends(5, 8, 30_000),
            Says(1, "OK"),
        ],
    );
    play.to(at(10_005));
    assert!(
        matches!(&play.said[..], [.., Output::Event(Event::Warn(text))] if text.contains("token 8 instead of 7")),
        "{:?}",
        play.said
    );
    play.release()
        .to(at(10_010))
        .asked(&["wait", "renew 7", "renew 7", "release 8"]);
}

#[test]
fn unknown_reply_neither_confirms_nor_denies() {
    let mut play = Play::new(
        options(),
        &[
            Lends(0, 7, 30_000),
            Lends(0, 7, 30_000),
            Says(5, "INVALID"),
            Says(5, "<html>"),
            Lends(5, 7, 30_000),
            Waits,
        ],
    );
    play.to(at(9_999))
        .said(&[believe(at(30_000)), acquired(Some(7))]);
    play.to(at(15_000)).said(&[Output::Event(Event::Suspended(
        "dx:9889 said INVALID".into(),
    ))]);
    play.to(at(17_000))
        .said(&[believe(at(46_010)), Output::Event(Event::Resumed)]);
}

/// The server has a new config. It may get another one, or an operator may revoke the lock.
#[test]
fn slot_whose_lease_became_endless_is_held_and_polled() {
    let script = [
        Lends(0, 7, 30_000),
        Lends(0, 7, 30_000),
        Gives(5, 7),
        Gives(5, 7),
        Says(5, "INVALID"),
        Freezes,
        Refuses,
        Revokes(5),
        Says(1, "OK"),
    ];
    let mut play = Play::new(options(), &script);
    play.to(at(19_999)).said(&[
        believe(at(30_000)),
        acquired(Some(7)),
        Output::Event(Event::LeaseUntil(Deadlines::NEVER)),
    ]);
    play.to(at(60_000)).said(&[Output::Event(Event::Revoked {
        why: "an operator revoked it at dx:9889".into(),
    })]);
    assert_eq!(std::mem::take(&mut play.server.asked)[1..], ["renew 7"; 6]);
    play.release()
        .to(at(DAY + 1))
        .said(&[RELEASED])
        .asked(&["release 7"]);
}

#[test]
fn slot_that_gets_a_lease_again_is_held_by_it() {
    let mut play = Play::new(
        options(),
        &[
            Lends(0, 7, 30_000),
            Lends(0, 7, 30_000),
            Gives(5, 7),
            Lends(5, 7, 15_000),
            Waits,
        ],
    );
    play.to(at(10_005)).said(&[
        believe(at(30_000)),
        acquired(Some(7)),
        Output::Event(Event::LeaseUntil(Deadlines::NEVER)),
    ]);
    play.to(at(20_100)).said(&[believe(at(35_005))]);
}

/// The Python server says only YES, but it does not know renewals: a peer that answers one so has
/// granted no slot.
#[test]
fn yes_without_the_earlier_token_and_lease_confirms_nothing() {
    let mut play = Play::new(
        options(),
        &[Lends(0, 7, 30_000), Lends(0, 7, 30_000), Says(5, "YES")],
    );
    let why = "dx:9889 said YES without the token and the lease that it said before";
    play.to(at(28_799)).said(&[
        believe(at(30_000)),
        acquired(Some(7)),
        Output::Event(Event::Suspended(why.into())),
    ]);
    play.to(at(28_800));
    assert!(
        matches!(play.said[..], [Output::Event(Event::Lost { kill_deadline, .. })] if kill_deadline == at(29_800)),
        "{:?}",
        play.said
    );
}

fn revoked() -> Output {
    Output::Event(Event::Revoked {
        why: "an operator revoked it at dx:9889".into(),
    })
}

#[test]
fn revoked_slot_is_held_until_released_and_not_renewed() {
    let mut play = Play::new(
        options(),
        &[
            Lends(0, 7, 30_000),
            Lends(0, 7, 30_000),
            Revokes(5),
            Says(1, "OK"),
        ],
    );
    play.to(at(25_000))
        .said(&[believe(at(30_000)), acquired(Some(7)), revoked()])
        .asked(&["wait", "renew 7", "renew 7"]);
    assert!(play.driver.machine.unsettled());
    play.release()
        .to(at(25_001))
        .said(&[RELEASED])
        .asked(&["release 7"]);
    assert!(!play.driver.machine.unsettled());
}

#[test]
fn revoked_slot_is_lost_when_its_lease_ends() {
    let mut play = Play::new(
        options(),
        &[
            Lends(0, 7, 30_000),
            Lends(0, 7, 30_000),
            Revokes(5),
            Says(1, "OK"),
        ],
    );
    play.to(at(28_799))
        .said(&[believe(at(30_000)), acquired(Some(7)), revoked()]);
    let why =
        "an operator revoked it at dx:9889, and its lease ended before the command exited".into();
    play.to(at(28_800)).said(&[Output::Event(Event::Lost {
        why,
        kill_deadline: at(29_800),
        gone: true,
    })]);
    play.release().to(at(28_801)).said(&[RELEASED]).asked(&[
        "wait",
        "renew 7",
        "renew 7",
        "release 7",
    ]);
}

#[test]
fn revoked_slot_of_the_previous_run_is_refused_and_released() {
    let denied = || {
        let why = "NO: an operator has revoked the lock of this run (start the run again to request a new one)";
        Output::Event(Event::Failed(Failure::Denied(why.into())))
    };
    let inherited = |options| Options {
        inherited: true,
        ..options
    };
    for (options, asks) in [(options(), "wait"), (patient(0), "get")] {
        let mut play = Play::new(inherited(options), &[Revokes(1), Says(1, "OK")]);
        play.to(at(DAY)).said(&[denied()]).asked(&[asks]);
        assert!(play.driver.machine.unsettled());
        play.release()
            .to(at(DAY + 1))
            .said(&[RELEASED])
            .asked(&["release"]);
        assert!(!play.driver.machine.unsettled());
    }
    let mut play = Play::new(options(), &[Lends(0, 7, 30_000), Revokes(1), Says(1, "OK")]);
    play.to(at(DAY))
        .said(&[denied()])
        .asked(&["wait", "renew 7"]);
    play.release()
        .to(at(DAY + 1))
        .said(&[RELEASED])
        .asked(&["release 7"]);
}

/// The next run on this host continues with an id that the server may have a slot for.
#[test]
fn run_is_settled_once_the_server_says_it_has_no_slot() {
    for (inherited, script, settled) in [
        (false, &[Refuses][..], true),
        (true, &[Refuses], false),
        (true, &[Says(1, "NO")], true),
        (true, &[Says(1, "INVALID")], false),
        (false, &[HangsUp(1), Refuses], false),
        (
            false,
            &[Lends(0, 7, 30_000), Lends(0, 7, 30_000), Says(1, "OK")],
            true,
        ),
        (
            false,
            &[Lends(0, 7, 30_000), Lends(0, 7, 30_000), Says(1, "INVALID")],
            false,
        ),
        (
            false,
            &[Lends(0, 7, 30_000), Lends(0, 7, 30_000), Refuses],
            false,
        ),
        (
            false,
            &[Lends(0, 7, 30_000), Lends(0, 7, 30_000), Says(1, "NO")],
            true,
        ),
    ] {
        let mut play = Play::new(
            Options {
                inherited,
                ..patient(0)
            },
            script,
        );
        let begun = if script.len() == 3 && !matches!(script[2], Says(_, "NO")) {
            at(5_000)
        } else {
            at(15_000)
        };
        play.to(begun).release().to(at(60_000));
        assert_eq!(
            !play.driver.machine.unsettled(),
            settled,
            "{inherited} {script:?}"
        );
    }
}

#[test]
fn unreachable_server_is_waited_for_and_then_named() {
    for (script, why) in [
        (Refuses, "dx:9889: connection refused"),
        (IsOff, "dx:9889: no answer for 3.0 s"),
        (
            HangsUp(1),
            "dx:9889: closed the connection (not an HTTP server, or it expects TLS?)",
        ),
        (Resets(1), "dx:9889: connection reset by peer"),
    ] {
        for (options, limit) in [
            (options(), 10_000),
            (patient(0), 10_000),
            (patient(1000), 10_000),
            (patient(60_000), 60_000),
        ] {
            let mut play = Play::new(options, &[script]);
            play.to(at(limit - 1))
                .said(&[])
                .to(at(limit))
                .said(&[unreachable(why)]);
            play.release().to(at(limit + 1000)).said(&[RELEASED]);
        }
    }
    let mut play = Play::new(patient(0), &[Freezes]);
    play.to(at(10_000))
        .said(&[unreachable("dx:9889: no answer for 3.0 s")]);
}

#[test]
fn server_lost_during_a_wait_has_the_same_time_to_return() {
    let mut play = Play::new(options(), &[HangsUp(60_000), Refuses]);
    play.to(at(69_999))
        .said(&[waiting()])
        .to(at(70_000))
        .said(&[unreachable("dx:9889: connection refused")]);

    let mut play = Play::new(
        options(),
        &[
            HangsUp(60_000),
            Refuses,
            Refuses,
            HangsUp(60_000),
            Refuses,
            Says(5, "YES"),
            Waits,
        ],
    );
    play.to(at(DAY)).said(&[waiting(), acquired(None)]);

    let mut play = Play::new(patient(DAY), &[HangsUp(60_000), Refuses]);
    play.to(at(DAY - 1))
        .said(&[waiting()])
        .to(at(DAY))
        .said(&[unreachable("dx:9889: connection refused")]);
}

#[test]
fn wait_ends_as_busy_if_the_server_holds_the_request() {
    let mut play = Play::new(patient(60_000), &[Waits, Says(1, "OK")]);
    play.to(at(59_999))
        .said(&[waiting()])
        .to(at(60_000))
        .said(&[Output::Event(Event::Busy(holder()))]);
    play.release()
        .to(at(60_010))
        .said(&[RELEASED])
        .asked(&["wait", "release"]);
}

/// A cancelled wait: the time by which it must end, and the requests after it.
#[test]
fn cancelled_wait_leaves_no_slot() {
    for (script, given_up, over, asked) in [
        (&[Waits, Says(1, "OK")][..], 5_000, 5_002, &["release"][..]),
        (&[Waits, Says(1, "OK")], 100, 252, &["release"]), /* the original would wait for
                                                            * ever for who left so soon */
        (&[Says(200, "YES"), Says(1, "OK")], 100, 201, &["release"]),
        (
            &[Lends(5_100, 7, 30_000), Says(1, "OK")],
            5_000,
            5_101,
            &["release 7"],
        ), // it was under way
        (&[Says(5_100, "NO")], 5_000, 5_100, &[]),
        (&[Resets(5_100), Says(1, "OK")], 5_000, 5_101, &["release"]),
        (&[Freezes, Says(1, "OK")], 5_000, 6_001, &["release"]),
        (&[Freezes, Refuses], 5_000, 7_000, &[]),
        (&[Freezes], 5_000, 7_000, &["release"]),
        (&[HangsUp(4_000), Refuses], 5_000, 6_000, &[]), // the server may have granted it
        (&[Refuses], 5_000, 5_000, &[]),
        (&[IsOff], 1_000, 1_000, &[]),
    ] {
        let mut play = Play::new(options(), script);
        play.to(at(given_up)).server.asked.clear();
        play.said.retain(|output| *output != waiting());
        play.release().to(at(over - 1));
        if over > given_up {
            play.said(&[]);
        }
        play.to(at(over)).said(&[RELEASED]).asked(asked);
        assert_eq!(play.to(at(DAY)).driver.wait(), Moment::NEVER, "{script:?}");
    }
}

#[test]
fn run_that_is_not_the_only_one_releases_no_unknown_slot() {
    let shared = || Options {
        only_run: false,
        ..options()
    };
    let mut play = Play::new(shared(), &[Waits]);
    play.to(at(5_000)).release().to(at(DAY)).asked(&["wait"]);
    let mut play = Play::new(shared(), &[Lends(5_100, 7, 30_000), Says(1, "OK")]);
    play.to(at(5_000))
        .release()
        .to(at(DAY))
        .asked(&["wait", "release 7"]);
}

#[test]
fn unanswered_release_ends_with_a_doubt() {
    let mut play = Play::new(
        options(),
        &[Says(1, "YES"), Refuses, HangsUp(1), IsOff, Says(1, "OK")],
    );
    play.to(at(1_000))
        .said(&[acquired(None)])
        .release()
        .to(at(10_999))
        .said(&[RELEASED])
        .asked(&["wait", "release", "release"]);

    let mut play = Play::new(
        options(),
        &[
            Lends(0, 7, 200_000),
            Lends(0, 7, 200_000),
            Says(1, "INVALID"),
        ],
    );
    play.to(at(1_000))
        .said(&[believe(at(200_000)), acquired(Some(7))])
        .release();
    play.to(at(1_001)).said(&[doubt(
        "dx:9889 said INVALID: the lock is free when its lease on the server has ended, within 210 s",
    )]);
}

#[test]
fn slot_without_a_lease_that_cannot_be_released_is_kept_by_the_server() {
    let mut play = Play::new(options(), &[Gives(1, 7), Gives(1, 7), Refuses]);
    play.to(at(1_000))
        .said(&[acquired(Some(7))])
        .release()
        .to(at(10_999))
        .said(&[]);
    play.to(at(11_000)).said(&[doubt(
        "dx:9889: connection refused: the pool has no \"expire\", so the server keeps the lock until \
         the next run on this host releases it; if none follows: \
         curl 'http://dx:9889/release/?pool=p&host=web1&token=7'",
    )]);

    // A lease that was refused may end at any time.
    let mut play = Play::new(options(), &[Tells(1, 7, "nan"), Refuses]);
    play.to(at(10)).release().said.clear();
    play.to(at(11_000)).said(&[doubt(
        "dx:9889: connection refused: the lock is free when its lease on the server has ended",
    )]);
}

#[test]
fn slot_under_renewal_is_released_at_once() {
    let mut play = Play::new(
        options(),
        &[Lends(20_000, 7, 30_000), Freezes, Says(1, "OK")],
    );
    play.to(at(20_500))
        .said(&[waiting()])
        .release()
        .to(at(20_501))
        .said(&[RELEASED])
        .asked(&["wait", "renew 7", "release 7"]);

    let mut play = Play::new(
        options(),
        &[
            Lends(0, 7, 30_000),
            Lends(0, 7, 30_000),
            Freezes,
            Says(1, "OK"),
        ],
    );
    play.to(at(10_500))
        .said(&[believe(at(30_000)), acquired(Some(7))])
        .release()
        .to(at(10_501))
        .said(&[RELEASED]);
}

#[test]
fn slot_is_not_acquired_after_its_lease() {
    let mut lock = PoolLock::new(options(), at(0), at(0));
    let mut bytes = Vec::new();
    Reply::new(200, "", "YES")
        .with("X-Lock-Expires", 30)
        .write(Terms::UNREADABLE, "", &mut bytes);
    for _ in ["wait", "renew"] {
        assert_eq!(
            lock.poll(at(0)),
            Output::Transport(transport::Output::Connect(
                Endpoint::from("dx:9889").address
            ))
        );
        lock.handle(Input::Transport(transport::Event::Connected), at(0));
        assert!(matches!(
            lock.poll(at(0)),
            Output::Transport(transport::Output::Send(_))
        ));
        lock.handle(Input::Transport(transport::Event::Received(&bytes)), at(0));
        assert_eq!(
            lock.poll(at(0)),
            Output::Transport(transport::Output::Close)
        );
    }
    assert_eq!(lock.poll(at(5)), believe(at(30_000)));
    // Stopped before `Acquired` was polled.
    assert_eq!(
        [lock.poll(at(29_000)), lock.poll(at(29_100))],
        [
            Output::Wait(at(29_100)),
            Output::Transport(transport::Output::Connect(
                Endpoint::from("dx:9889").address
            ))
        ]
    );
}

fn anything() -> impl Strategy<Value = Does> {
    let ms = 0..40_000u64;
    prop_oneof![
        Just(Refuses),
        Just(IsOff),
        Just(Waits),
        Just(Freezes),
        (
            ms.clone(),
            prop::sample::select(vec!["YES", "NO", "OK", "INVALID", "?"])
        )
            .prop_map(|(ms, word)| Says(ms, word)),
        (ms.clone(), 1..3i64, 500..60_000u64)
            .prop_map(|(ms, token, length)| Lends(ms, token, length)),
        (
            ms.clone(),
            1..3i64,
            prop::sample::select(vec!["0", "-1", "nan", "inf", "30s", "", "1e300", "0.3"])
        )
            .prop_map(|(ms, token, expires)| Tells(ms, token, expires)),
        (ms.clone(), 1..3i64).prop_map(|(ms, token)| Gives(ms, token)),
        ms.clone().prop_map(Revokes),
        ms.clone().prop_map(IsOuter),
        ms.clone().prop_map(HangsUp),
        ms.prop_map(Resets),
    ]
}

proptest! {
    /// Whatever the server does, the lock is acquired only with time to begin, it is lost or
    /// released in time, and every release ends.
    #[test]
    fn whatever_happens_belief_is_in_time_and_a_release_ends(
        script in prop::collection::vec(anything(), 1..12),
        wait in prop_oneof![Just(None), (0..100_000u64).prop_map(Some)],
        released in 0..200_000u64,
    ) {
        let mut play = Play::new(wait.map_or_else(options, patient), &script);
        let (mut held, mut until) = (false, Deadlines::NEVER);
        for step in 0..=released / 50 {
            play.to(at((step * 50).min(released)));
            for output in std::mem::take(&mut play.said) {
                match output {
                    Output::Event(Event::Acquired(_)) => {
                        prop_assert!(!held && play.now() < until.term + Duration::from_millis(50));
                        held = true;
                    }
                    Output::Event(Event::LeaseUntil(deadlines)) => until = deadlines,
                    Output::Event(Event::Lost { kill_deadline, .. }) => {
                        prop_assert!(held && kill_deadline <= until.kill.max(play.now()));
                        held = false;
                    }
                    Output::Event(Event::Released { .. }) => prop_assert!(false, "before it was asked for"),
                    _ => {}
                }
            }
            prop_assert!(!held || play.now() < until.term);
        }
        play.release().to(at(released) + RELEASE_TIMEOUT + CANCEL_DELAY + CANCEL_TIMEOUT + SECOND);
        let over = play.said.iter().filter(|output| matches!(output, Output::Event(Event::Released { .. }))).count();
        prop_assert_eq!((over, play.driver.wait()), (1, Moment::NEVER));
    }
}
