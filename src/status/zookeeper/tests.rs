use super::*;
use crate::lock::zookeeper::Fake;
use crate::moment::Moment;
use crate::oneshot::zookeeper::{Client, Options};
use crate::status;
use crate::testing::{Driver, Once};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use std::time::Duration;

/// A node of the server.
#[derive(Clone, Debug, Default)]
struct Entry {
    data: Vec<u8>,
    owner: i64,
    /// Its children may not be listed.
    is_hidden: bool,
}

/// A server: nodes by path. The nodes above them need no entry.
#[derive(Clone, Debug, Default)]
struct Tree(BTreeMap<String, Entry>);

impl Tree {
    fn with(mut self, path: &str, data: &[u8], owner: i64) -> Tree {
        let data = data.to_vec();
        self.0.insert(
            path.into(),
            Entry {
                data,
                owner,
                is_hidden: false,
            },
        );
        self
    }

    fn hiding(mut self, path: &str) -> Tree {
        self.0.entry(path.into()).or_default().is_hidden = true;
        self
    }

    /// The answer to a request, which must be one that reads.
    fn answer(&self, request: &Request) -> Result<Answer, Code> {
        match request {
            Request::Sync { .. } => Ok(Answer::Done),
            Request::Data { path, watch: false } | Request::Exists { path, watch: false } => {
                let below = format!("{path}/");
                let is_above = || self.0.keys().any(|node| node.starts_with(&below));
                let entry = match self.0.get(path) {
                    Some(entry) => entry.clone(),
                    None if is_above() => Entry::default(),
                    None => return Err(Code::NO_NODE),
                };
                Ok(Answer::Data(entry.data, stat(entry.owner)))
            }
            Request::Children { path, watch: false } => {
                if self.0.get(path).is_some_and(|entry| entry.is_hidden) {
                    return Err(Code::NO_AUTH);
                }
                let below = format!("{}/", path.trim_end_matches('/'));
                let nodes = self.0.range(below.clone()..);
                let nodes = nodes.map_while(|(node, _)| node.strip_prefix(&below));
                let mut names: Vec<_> = nodes
                    .filter_map(|node| Some(node.split('/').next()?.to_owned()))
                    .collect();
                names.dedup();
                Ok(Answer::Children(names))
            }
            other => panic!("it does not only read: {other:?}"),
        }
    }
}

fn stat(owner: i64) -> Stat {
    Stat {
        czxid: 7,
        mzxid: 7,
        ctime: owner, // any
        mtime: 0,
        version: 0,
        cversion: 0,
        aversion: 0,
        ephemeral_owner: owner,
        data_length: 0,
        num_children: 0,
        pzxid: 7,
    }
}

/// What is found below `/locks`.
fn look(tree: &Tree, names: Option<&[&str]>, app: bool) -> Report {
    let mut survey = Survey::new(Target {
        root: "/locks".into(),
        names: names.map(|names| names.iter().copied().map(Into::into).collect()),
        app,
    });
    survey.begin(None);
    while let Some(request) = survey.queued.pop_front() {
        let answer = tree.answer(&request);
        let taken = survey.take(&request, answer, |code| code.explain(false));
        assert_eq!(taken, Ok(()));
    }
    survey.report()
}

/// The locks by name, and whether they are held.
fn held(report: &Report) -> Vec<(&str, Option<bool>)> {
    let locks = report.locks.iter();
    locks
        .map(|lock| (lock.name.as_str(), lock.is_held()))
        .collect()
}

fn contender(number: usize) -> String {
    format!("{number:032x}__lock__{number:010}")
}

#[test]
fn a_lock_that_may_not_be_listed_is_unknown_and_not_free() {
    let tree = Tree::default()
        .with(&format!("/locks/seen/{}", contender(1)), b"web3:7", 5)
        .with(&format!("/locks/hidden/{}", contender(1)), b"web3:7", 5)
        .hiding("/locks/hidden");
    for app in [false, true] {
        let report = look(&tree, None, app);
        assert_eq!(
            held(&report),
            [("hidden", None), ("seen", Some(true))],
            "app {app}"
        );
        assert_eq!(report.warnings.len(), 1);
        let report = look(&tree, Some(&["hidden"]), app);
        assert_eq!(held(&report), [("hidden", None)], "app {app}");
        assert_eq!(
            report.warnings,
            [
                "cannot list /locks/hidden: no permission: check the ACL of the node (-102)"
                    .to_owned()
            ]
        );
    }
    assert_eq!(
        held(&look(&tree, Some(&["none"]), false)),
        [("none", Some(false))]
    );
}

#[test]
fn a_lock_deep_below_the_root_is_read_if_named_and_unknown_otherwise() {
    let deep = "a/b/c/d/e/f/g/h/i";
    let tree = Tree::default().with(&format!("/locks/{deep}/{}", contender(1)), b"web3:7", 5);
    let report = look(&tree, Some(&[deep]), false);
    assert_eq!(held(&report), [(deep, Some(true))]);
    assert_eq!(held(&look(&tree, None, false)), [(deep, None)]);
}

#[test]
fn a_lock_beyond_the_limit_of_nodes_is_unknown_and_not_free() {
    let mut survey = Survey::new(Target {
        root: "/locks".into(),
        names: None,
        app: false,
    });
    survey.begin(None);
    survey.on_children("/locks", ["a", "b", "c", "d"].map(Into::into).into());
    survey.on_node("/locks/a", Some(vec![]), stat(0));
    survey.on_children("/locks/a", vec![contender(1), contender(2)]);
    survey.on_node(&format!("/locks/a/{}", contender(2)), Some(vec![]), stat(0));
    survey.requested = MAX_NODES;
    survey.on_node("/locks/b", Some(vec![]), stat(0));
    survey.on_node("/locks/c", Some(vec![]), stat(0));
    survey.on_children("/locks/c", vec![contender(1)]);
    survey.ask_data("/locks/d".into());
    let report = survey.report();
    assert_eq!(
        held(&report),
        [("a", Some(true)), ("b", None), ("c", None), ("d", None)]
    );
    assert_eq!(report.warnings.len(), 1);
}

#[test]
fn of_long_data_the_start_is_kept_and_shown() {
    let long = "é".repeat(500_000);
    let tree = Tree::default().with("/locks/lock", long.as_bytes(), 5);
    let report = look(&tree, None, true);
    let host = report.locks[0].holders.as_ref().unwrap()[0].host.clone();
    assert_eq!(host, Some("é".repeat(512)));
    assert_eq!(start_of(vec![b'a'; 1025]).len(), 1024);
    assert_eq!(
        start_of([&[b'a'; 1023][..], "é".as_bytes()].concat()).len(),
        1023
    );
    assert_eq!(start_of(vec![0x80; 5000]).len(), 0);
}

#[test]
fn waiters_of_a_queue_for_several_locks_are_shown_with_each_up_to_a_limit() {
    let mut survey = Survey::new(Target {
        root: "/locks".into(),
        names: None,
        app: true,
    });
    let queue = "/locks/.queue/job_0%..job_9";
    survey.on_children("/locks/.queue", vec!["job_0%..job_9".into()]);
    let waiters = [1, 2].map(|number| format!("{number:016x}-{number:010}"));
    survey.on_children(queue, waiters.clone().into());
    for waiter in waiters {
        survey.on_node(&format!("{queue}/{waiter}"), Some(b"web3".into()), stat(1));
    }
    let count = |survey: &Survey, name| survey.named(name).waiters.len();
    assert_eq!([count(&survey, "job_0"), count(&survey, "job_9")], [2, 2]);
    assert_eq!(count(&survey, "job_10"), 0);
    survey.shown.set(MAX_WAITERS - 3);
    assert_eq!(
        ["job_1", "job_2", "job_3"].map(|name| count(&survey, name)),
        [2, 1, 0]
    );
    assert_eq!(
        survey.report().warnings,
        ["only the first 1000000 waiters are shown"]
    );
}

#[test]
fn a_lock_with_too_long_a_list_is_unknown_and_the_others_are_shown() {
    let tree = Tree::default()
        .with(&format!("/locks/long/{}", contender(1)), b"web3:7", 5)
        .with(&format!("/locks/seen/{}", contender(1)), b"web3:7", 5);
    let mut survey = Survey::new(Target {
        root: "/locks".into(),
        names: None,
        app: false,
    });
    assert!(!survey.on_long_list("/locks", "nothing can be shown"));
    assert!(survey.on_long_list("/locks/long", "it is too long"));
    survey.begin(None);
    while let Some(request) = survey.queued.pop_front() {
        let answer = tree.answer(&request);
        assert_eq!(survey.take(&request, answer, |_| String::new()), Ok(()));
    }
    let report = survey.report();
    assert_eq!(held(&report), [("long", None), ("seen", Some(true))]);
    assert_eq!(report.warnings, ["it is too long"]);
}

#[test]
fn a_client_that_finds_too_long_a_list_connects_again_and_reads_the_rest() {
    let mut fake = Fake::with_parent("/locks");
    fake.put("/locks/long", b"", 0);
    fake.put("/locks/seen", b"", 0);
    fake.put(&format!("/locks/seen/{}", contender(1)), b"web3:7", 5);
    for number in 0..80_000 {
        fake.put(&format!("/locks/long/{}", contender(number)), b"", 5);
    }
    let survey = Survey::new(Target {
        root: "/locks".into(),
        names: None,
        app: false,
    });
    let options = Options {
        only_reads: true,
        ..Options::of_tests()
    };
    let start = Moment(Duration::from_secs(100));
    let client = Client::new(options, survey, start);
    let mut driver = Driver::new(Once::new(client), start);
    let report = driver.advance(&mut fake, start + Duration::from_mins(1));
    let report = report.expect("a report").expect("locks");
    assert_eq!(held(&report), [("long", None), ("seen", Some(true))]);
    assert!(
        report.warnings[0].starts_with("/locks/long has 80000 children"),
        "{:?}",
        report.warnings
    );
}

/// A name of a node: what clients of locks make, and what others may.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        (0..4_usize).prop_map(contender),
        Just(format!("{:032x}__rlock__0000000001", 7)),
        Just(format!("{:032x}", 8)),
        Just("0000000000000005-0000000001".to_owned()),
        "(job_[0-9]{1,2}|[a-c])(%..job_[0-9])?(-__lock__)?",
        Just(".queue".to_owned()),
        Just(".runs".to_owned()),
        any::<String>().prop_map(|name| name.replace('/', "%")),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    let data = prop_oneof![
        vec(any::<u8>(), 0..50),
        any::<String>().prop_map(String::into_bytes),
        (1024..70_000_usize).prop_map(|length| vec![b'x'; length]),
        Just(b"3".to_vec()),
        Just(b"web301234567-89ab-8cde-8f01-234500004711".to_vec()),
    ];
    let owner = prop_oneof![Just(0), Just(5), any::<i64>()];
    (data, owner, prop::bool::weighted(0.1)).prop_map(|(data, owner, is_hidden)| Entry {
        data,
        owner,
        is_hidden,
    })
}

fn tree() -> impl Strategy<Value = Tree> {
    let path = vec(name(), 1..4).prop_map(|names| format!("/locks/{}", names.join("/")));
    btree_map(path, entry(), 0..30).prop_map(Tree)
}

proptest! {
    #[test]
    fn any_nodes_are_only_read_and_can_be_printed(
        tree in tree(),
        names in prop::option::of(vec(name(), 1..4)),
        app: bool,
    ) {
        let names: Option<Vec<_>> =
            names.as_ref().map(|names| names.iter().map(String::as_str).collect());
        let report = look(&tree, names.as_deref(), app);
        for detailed in [false, true] {
            let table = status::table(&report, 0, |time| time.to_string(), detailed);
            let is_plain = |line: &str| !line.contains(char::is_control);
            prop_assert!(table.split_terminator('\n').all(is_plain), "{table:?}");
        }
        let json = status::json(&report, 0, |time| time.to_string());
        let document: serde_json::Value = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(document["locks"].as_array().unwrap().len(), report.locks.len());
        if let Some(names) = names {
            prop_assert_eq!(report.locks.len(), names.len());
        }
    }
}

#[test]
fn last_runs_are_shown_also_of_locks_that_are_free() {
    const ENDED: &[u8] = br#"{"host":"web5","pid":7,"token":33,"exit":1}"#;
    let run = |name: &str, report: &Report| {
        let lock = report.locks.iter().find(|lock| lock.name == name);
        lock.and_then(|lock| lock.last_run.clone())
    };
    let ended = LastRun {
        host: Some("web5".into()),
        pid: Some(7),
        token: Some(33),
        started: Some(0),
        ended: Some(0),
        exit: Some(1),
    };
    let unread = LastRun {
        started: Some(0),
        ..LastRun::default()
    };
    let app = Tree::default()
        .with(
            "/locks/held",
            b"web5aaaaaaaa-aaaa-8aaa-aaaa-aaaa00000007",
            5,
        )
        .with(
            "/locks/.runs/held",
            br#"{"host":"web5","pid":7,"token":33}"#,
            0,
        )
        .with("/locks/.runs/a%2Fb", ENDED, 0)
        .with("/locks/.runs/odd", b"garbage", 0);
    let all = look(&app, None, true);
    let names = [
        ("a/b", Some(false)),
        ("held", Some(true)),
        ("odd", Some(false)),
    ];
    assert_eq!(held(&all), names);
    assert_eq!(run("a/b", &all), Some(ended.clone()));
    assert_eq!(run("odd", &all), Some(unread));
    assert_eq!(run("held", &all).unwrap().exit, None);
    let one = look(&app, Some(&["a/b", "none"]), true);
    assert_eq!(
        (run("a/b", &one), run("none", &one)),
        (Some(ended.clone()), None)
    );

    let queues = Tree::default()
        .with("/locks/id", b"", 0)
        .with("/locks/.runs/id", ENDED, 0)
        .with(&format!("/locks/a/b/{}", contender(1)), b"web3:7", 5)
        .with("/locks/a/.runs/b", ENDED, 0);
    for names in [None, Some(&["id", "a/b"][..])] {
        let report = look(&queues, names, false);
        assert_eq!(report.locks.len(), 2, "{report:?}");
        for name in ["id", "a/b"] {
            assert_eq!(run(name, &report), Some(ended.clone()), "{name}");
        }
    }
}
