use super::*;
use crate::eviction::zookeeper::Target;
use crate::lock::zookeeper::{Fake, acl};
use crate::oneshot::zookeeper::{Client, Options};
use crate::plan::Acl;
use crate::testing::{Driver, Once};
use crate::zookeeper::code::operation;

const NODE: &str = "/app/lock";

fn at(milliseconds: u64) -> Moment {
    Moment(Duration::from_secs(100) + Duration::from_millis(milliseconds))
}

type Report = Result<Outcome, Failure>;

struct Play {
    fake: Fake,
    driver: Driver<Once<Client<Eviction>>>,
    now: Moment,
    token: i64,
}

impl Play {
    /// A holder that does nothing, and a client that asks it.
    fn new(force: bool, wait: Duration) -> Play {
        let mut fake = Fake::with_parent("/app");
        fake.put(NODE, b"web3", 0x77);
        let token = fake.nodes[NODE].czxid;
        Play::with(fake, token, force, wait)
    }

    fn with(fake: Fake, token: i64, force: bool, wait: Duration) -> Play {
        let target = Target {
            node: NODE.into(),
            token,
            breaks: "/app/.break".into(),
            asker: "root@adm1".into(),
            container_acl: acl::of(Acl::Open),
            request_acl: acl::of_request(Acl::Open),
            timeout: Duration::from_secs(10),
            is_unique: false,
            force,
            until: at(0) + wait,
        };
        let options = Options::of_tests();
        let client = Client::new(options, Eviction::new(target), at(0));
        Play {
            fake,
            driver: Driver::new(Once::new(client), at(0)),
            now: at(0),
            token,
        }
    }

    /// Runs the client until then, or until it reports.
    fn to(&mut self, end: Moment) -> Option<Report> {
        while self.now < end {
            self.fake.expire(self.now);
            self.driver.jump(self.now);
            if let Some(report) = self.driver.next_report(&mut self.fake) {
                return Some(report);
            }
            let next = self.driver.wait().min(end);
            self.now = next.max(self.now + Duration::from_millis(1));
        }
        None
    }

    fn request(&self) -> String {
        format!("/app/.break/{}", self.token)
    }

    fn answer(&mut self) {
        let request = self.request();
        let owner = self.fake.nodes[&request].owner;
        self.fake.put(&request, b"root@adm1\nkill-after 5", owner);
    }
}

#[test]
fn holder_that_releases_is_evicted_and_nothing_of_the_request_is_left() {
    let mut play = Play::new(false, Duration::from_secs(30));
    assert_eq!(play.to(at(500)), None);
    assert_eq!(play.fake.nodes[&play.request()].data, b"root@adm1");
    play.answer();
    play.fake.end(0x77);
    let report = play.to(at(1000));
    assert!(
        matches!(report, Some(Ok(Outcome::Evicted { held: Some(_) }))),
        "{report:?}"
    );
    assert_eq!(play.fake.living(), 0);
    assert!(!play.fake.nodes.contains_key(&play.request()));
}

#[test]
fn silent_holder_keeps_its_lock_without_force() {
    let mut play = Play::new(false, Duration::from_secs(30));
    assert_eq!(play.to(at(5999)), None);
    assert_eq!(play.to(at(6100)), Some(Ok(Outcome::Silent)));
    assert!(play.fake.nodes.contains_key(NODE));
}

#[test]
fn node_of_a_silent_holder_is_deleted_with_force() {
    let mut play = Play::new(true, Duration::from_secs(30));
    assert_eq!(play.to(at(5999)), None);
    assert_eq!(
        play.to(at(6100)),
        Some(Ok(Outcome::Deleted(Newcomer::NotHit)))
    );
    assert!(!play.fake.nodes.contains_key(NODE));
}

#[test]
fn holder_that_answers_is_waited_for_and_never_forced() {
    let mut play = Play::new(true, Duration::from_secs(30));
    assert_eq!(play.to(at(100)), None);
    play.answer();
    assert_eq!(play.to(at(29_999)), None);
    let kill_after = Some(Duration::from_secs(5));
    assert_eq!(
        play.to(at(30_100)),
        Some(Ok(Outcome::StillHeld { kill_after }))
    );
    assert!(play.fake.nodes.contains_key(NODE));
}

#[test]
fn wait_that_is_shorter_than_an_answer_may_take_proves_nothing() {
    let mut play = Play::new(true, Duration::from_secs(1));
    assert_eq!(
        play.to(at(1100)),
        Some(Ok(Outcome::TooShort {
            answer: Duration::from_secs(6)
        }))
    );
    assert!(play.fake.nodes.contains_key(NODE));
}

#[test]
fn delete_that_is_lost_with_its_connection_is_sent_again() {
    let mut play = Play::new(true, Duration::from_secs(30));
    play.fake.loses = Some(operation::DELETE);
    assert_eq!(play.to(at(6100)), None);
    assert!(play.fake.nodes.contains_key(NODE));
    play.fake.down = false;
    assert_eq!(
        play.to(at(20_000)),
        Some(Ok(Outcome::Deleted(Newcomer::NotHit)))
    );
    assert!(!play.fake.nodes.contains_key(NODE));
}

#[test]
fn delete_is_not_sent_again_to_the_next_holder() {
    let mut play = Play::new(true, Duration::from_secs(30));
    play.fake.loses = Some(operation::DELETE);
    assert_eq!(play.to(at(6100)), None);
    play.fake.end(0x77);
    play.fake.put(NODE, b"web4", 0x78);
    play.fake.down = false;
    assert_eq!(
        play.to(at(20_000)),
        Some(Ok(Outcome::Deleted(Newcomer::Possible)))
    );
    assert!(play.fake.nodes.contains_key(NODE));
}

#[test]
fn wait_ends_while_no_server_answers() {
    for force in [false, true] {
        let mut play = Play::new(force, Duration::from_secs(8));
        assert_eq!(play.to(at(5000)), None);
        let now = play.now;
        play.fake.down = true;
        play.driver.cut(now, &mut play.fake);
        assert_eq!(play.to(at(8100)), Some(Ok(Outcome::Unknown)));
    }
    let mut play = Play::new(true, Duration::from_secs(8));
    play.fake.loses = Some(operation::DELETE);
    assert_eq!(play.to(at(6100)), None);
    assert_eq!(play.to(at(8100)), Some(Ok(Outcome::DeletionUnknown)));
}

#[test]
fn deletion_without_a_reply_is_told_although_no_server_answers_for_long() {
    let mut play = Play::new(true, Duration::from_mins(1));
    play.fake.loses = Some(operation::DELETE);
    let report = play.to(at(60_000));
    assert_eq!(report, Some(Ok(Outcome::DeletionUnknown)));
    assert!(play.now < at(20_000), "the limit of the client");
}

#[test]
fn request_of_another_client_that_may_not_be_read_is_refused() {
    let mut play = Play::new(true, Duration::from_secs(30));
    let request = play.request();
    play.fake.put("/app/.break", b"", 0);
    play.fake.put(&request, b"", 0x99);
    play.fake.secret = Some(request.clone());
    let report = play.to(at(1000));
    assert!(
        matches!(&report, Some(Err(Failure::Refused { what, .. })) if *what == format!("read {request}")),
        "{report:?}"
    );
}

#[test]
fn request_of_another_client_that_goes_before_it_is_read_is_made_again() {
    let mut play = Play::new(false, Duration::from_secs(30));
    let request = play.request();
    play.fake.put("/app/.break", b"", 0);
    play.fake.put(&request, b"root@adm2", 0x99);
    play.fake.fleeting = Some(request.clone());
    assert_eq!(play.to(at(1000)), None);
    assert_eq!(play.fake.nodes[&request].data, b"root@adm1");
    assert_eq!(play.to(at(7100)), Some(Ok(Outcome::Silent)));
}

#[test]
fn next_holder_is_neither_asked_nor_waited_for() {
    let mut fake = Fake::with_parent("/app");
    fake.put(NODE, b"web4", 0x78);
    let earlier = fake.nodes[NODE].czxid - 1;
    let mut play = Play::with(fake, earlier, true, Duration::from_secs(30));
    assert_eq!(play.to(at(100)), Some(Ok(Outcome::Left)));
    assert!(play.fake.nodes.contains_key(NODE));

    let mut play = Play::new(true, Duration::from_secs(30));
    assert_eq!(play.to(at(100)), None);
    play.fake.end(0x77);
    play.fake.put(NODE, b"web4", 0x78);
    assert_eq!(play.to(at(200)), Some(Ok(Outcome::Unanswered)));
    assert!(play.fake.nodes.contains_key(NODE));
}

#[test]
fn holder_whose_session_ends_without_an_answer_is_not_evicted() {
    let mut play = Play::new(false, Duration::from_secs(30));
    assert_eq!(play.to(at(500)), None);
    play.fake.end(0x77);
    assert_eq!(play.to(at(1000)), Some(Ok(Outcome::Unanswered)));
}

#[test]
fn holder_that_answered_and_released_while_no_server_was_reached_is_evicted() {
    let mut play = Play::new(false, Duration::from_secs(30));
    assert_eq!(play.to(at(500)), None);
    let now = play.now;
    play.fake.down = true;
    play.driver.cut(now, &mut play.fake);
    play.answer();
    play.fake.end(0x77);
    play.fake.down = false;
    let report = play.to(at(5000));
    assert!(
        matches!(report, Some(Ok(Outcome::Evicted { .. }))),
        "{report:?}"
    );
}

#[test]
fn holder_with_a_long_session_timeout_has_a_tenth_of_it_and_two_seconds_to_answer() {
    let mut play = Play::new(true, Duration::from_secs(30));
    play.fake.grants = Some(Duration::from_secs(100));
    assert_eq!(play.to(at(11_900)), None);
    assert!(play.fake.nodes.contains_key(NODE));
    assert_eq!(
        play.to(at(12_100)),
        Some(Ok(Outcome::Deleted(Newcomer::NotHit)))
    );
}

#[test]
fn request_is_made_on_servers_without_containers() {
    for keeper in [false, true] {
        let mut play = Play::new(false, Duration::from_secs(30));
        (play.fake.old, play.fake.keeper) = (!keeper, keeper);
        assert_eq!(play.to(at(100)), None);
        assert!(play.fake.nodes.contains_key(&play.request()));
    }
}

#[test]
fn request_outlives_a_lost_connection_and_a_lost_session() {
    let mut play = Play::new(false, Duration::from_mins(1));
    assert_eq!(play.to(at(100)), None);
    play.answer();
    assert_eq!(play.to(at(200)), None);
    let now = play.now;
    play.driver.cut(now, &mut play.fake);
    assert_eq!(play.to(at(2000)), None);
    let session = play.fake.nodes[&play.request()].owner;
    play.fake.end(session);
    assert_eq!(play.to(at(10_000)), None);
    let again = play.fake.nodes[&play.request()].owner;
    assert_ne!(again, session, "made again by the next session");
    play.fake.end(0x77);
    let report = play.to(at(11_000));
    assert!(
        matches!(report, Some(Ok(Outcome::Evicted { .. }))),
        "{report:?}"
    );
}

#[test]
fn answer_that_was_given_while_no_server_was_reached_is_read_before_force() {
    let mut play = Play::new(true, Duration::from_mins(1));
    assert_eq!(play.to(at(5000)), None);
    let now = play.now;
    play.fake.down = true;
    play.driver.cut(now, &mut play.fake);
    assert_eq!(play.to(at(5500)), None);
    play.answer();
    assert_eq!(play.to(at(9000)), None);
    play.fake.down = false;
    assert_eq!(play.to(at(59_000)), None);
    assert!(play.fake.nodes.contains_key(NODE));
    let kill_after = Some(Duration::from_secs(5));
    assert_eq!(
        play.to(at(61_000)),
        Some(Ok(Outcome::StillHeld { kill_after }))
    );
}

#[test]
fn request_that_an_operator_deletes_is_made_again_and_has_its_time_again() {
    let mut play = Play::new(false, Duration::from_mins(1));
    assert_eq!(play.to(at(5000)), None);
    let request = play.request();
    play.fake.delete(&request);
    assert_eq!(play.to(at(10_999)), None);
    assert!(play.fake.nodes.contains_key(&request));
    assert_eq!(play.to(at(11_100)), Some(Ok(Outcome::Silent)));
}

#[test]
fn request_that_is_not_allowed_is_refused() {
    let mut play = Play::new(false, Duration::from_mins(1));
    play.fake.closed = Some("/app".into());
    let report = play.to(at(1000));
    assert!(
        matches!(&report, Some(Err(Failure::Refused { what, .. })) if what == "create /app/.break/1"),
        "{report:?}"
    );
}

#[test]
fn newcomer_is_hit_only_if_the_token_or_enough_changes_say_so() {
    let task = Play::new(true, Duration::from_secs(30));
    let eviction = |token, changes, deleted| {
        let target = Target {
            node: NODE.into(),
            token: task.token,
            breaks: String::new(),
            asker: String::new(),
            container_acl: vec![],
            request_acl: vec![],
            timeout: Duration::from_secs(10),
            is_unique: false,
            force: true,
            until: at(0),
        };
        Eviction::new(target).newcomer(Deletion {
            token,
            changes,
            deleted: Some(deleted),
            ..Deletion::default()
        })
    };
    let own = Some(task.token);
    for (token, changes, expected) in [
        (own, [Some(7), Some(8)], Newcomer::NotHit),
        (own, [Some(7), Some(9)], Newcomer::NotHit),
        (own, [Some(7), Some(10)], Newcomer::Possible),
        (own, [Some(i32::MAX), Some(i32::MIN)], Newcomer::NotHit),
        (own, [None, None], Newcomer::Possible),
        (Some(task.token + 1), [Some(7), Some(8)], Newcomer::Hit),
    ] {
        assert_eq!(
            eviction(token, changes, true),
            expected,
            "{token:?} {changes:?}"
        );
    }
    for token in [own, None, Some(task.token + 1)] {
        assert_eq!(eviction(token, [None, None], false), Newcomer::Possible);
    }
}
