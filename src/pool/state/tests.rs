use super::*;

const BOOT: i64 = 1_763_000_000_000;

/// An hour after a boot.
fn clocks() -> Clocks {
    Clocks {
        boot: Some("b1".into()),
        date: BOOT + 3_600_000,
        uptime: 3_600_000,
    }
}

/// One second after another boot, which was `after` ms after the first.
fn rebooted(after: i64) -> Clocks {
    Clocks {
        boot: Some("b2".into()),
        date: BOOT + after + 1000,
        uptime: 1000,
    }
}

fn at(milliseconds: u64) -> Moment {
    Moment(Duration::from_millis(milliseconds))
}

fn held(pool: &str, host: &str, token: i64, expires: Moment) -> SavedHolding {
    let lease = (expires != Moment::NEVER).then_some(Duration::ZERO);
    SavedHolding {
        pool: pool.into(),
        host: host.into(),
        token,
        since: at(5000).into(),
        expires,
        run: None,
        lease,
        revoked: false,
    }
}

fn parse(text: &str, clocks: &Clocks) -> Result<State, String> {
    State::parse(text.as_bytes(), Path::new("f"), clocks).map_err(|error| error.to_string())
}

fn sample() -> State {
    let holders = vec![
        held("a", "h1", 8, at(3_665_000)),
        held("a", "h2", 7, at(3_609_000)),
        held("b", "замок \"q\"", 9, Moment::NEVER),
    ];
    State {
        last_token: 9,
        holders,
    }
}

const SAMPLE: &str = r#"{
  "last_token": 9,
  "pools": {
    "a": [
      {
        "expires": 1763003665000,
        "host": "h1",
        "since": 1763000005000,
        "token": 8
      }
    ]
  },
  "saved": {
    "boot": "b1",
    "date": 1763003600000,
    "uptime": 3600000
  },
  "version": 1
}
"#;

fn ends(state: &State) -> Vec<Moment> {
    state.holders.iter().map(|held| held.expires).collect()
}

#[test]
fn written_state_is_read_back_unchanged() {
    assert_eq!(parse(&sample().text(&clocks()), &clocks()), Ok(sample()));
    assert_eq!(
        parse(&State::default().text(&clocks()), &clocks()),
        Ok(State::default())
    );
    assert_eq!(
        State {
            holders: sample().holders[..1].to_vec(),
            ..sample()
        }
        .text(&clocks()),
        SAMPLE
    );
}

#[test]
fn run_lease_and_revocation_are_saved() {
    let mut state = sample();
    state.holders[0].run = Some("1.a_B-".into());
    state.holders[0].lease = Some(Duration::from_millis(1_800_001));
    state.holders[2].revoked = true;
    let text = state.text(&clocks());
    assert_eq!(parse(&text, &clocks()), Ok(state));
    for (key, wrong, expected) in [
        ("run", r#""a b""#, "the id of a run"),
        ("run", "5", "the id of a run"),
        ("lease", "-1", "milliseconds"),
        ("revoked", "1", "true or false"),
    ] {
        let text = SAMPLE.replace(r#""host""#, &format!(r#""{key}": {wrong}, "host""#));
        assert!(
            parse(&text, &clocks())
                .is_err_and(|why| why
                    .starts_with(&format!(r#"f: "pools.a[0].{key}": expected {expected};"#))),
            "{key}"
        );
    }
}

#[test]
fn duplicate_key_is_refused_because_it_would_hide_holders() {
    let twice = SAMPLE.replace("\"pools\": {", "\"pools\": {\n    \"a\": [],");
    let why = parse(&twice, &clocks()).unwrap_err();
    assert!(
        why.starts_with("f: duplicate key \"a\" on line 5; with other holders"),
        "{why}"
    );
    let twice = SAMPLE.replace("\"pools\": {", "\"pools\": {},\n  \"pools\": {");
    assert!(
        parse(&twice, &clocks()).is_err_and(|why| why.contains("duplicate key \"pools\"")),
        "{twice}"
    );
}

#[test]
fn state_of_an_earlier_version_is_read() {
    let state = parse(SAMPLE, &clocks()).unwrap();
    assert_eq!(state.holders, [held("a", "h1", 8, at(3_665_000))]);
    assert_eq!(
        state.holders[0].lease,
        Some(Duration::ZERO),
        "how long it was granted for is not known"
    );
}

#[test]
fn clock_changes_have_no_effect_within_a_boot() {
    for set in [-1_000_000_000, -60_000, 60_000, 1_000_000_000] {
        let later = Clocks {
            date: clocks().date + 5000 + set,
            uptime: clocks().uptime + 5000,
            ..clocks()
        };
        assert_eq!(
            parse(&sample().text(&clocks()), &later),
            Ok(sample()),
            "{set}"
        );
    }
}

#[test]
fn dates_are_kept_across_a_reboot() {
    let reboot = rebooted(3_620_000);
    let state = parse(&sample().text(&clocks()), &reboot).unwrap();
    assert_eq!(ends(&state), [at(45_000), at(0), Moment::NEVER]);
    assert_eq!(
        state.holders[0].since.elapsed(at(1000)),
        Duration::from_secs(3616),
        "it began before this boot"
    );
    assert_eq!(parse(&state.text(&reboot), &reboot), Ok(state));
}

/// As after a reboot of a host whose clock has no battery. Otherwise a holding would last for
/// years.
#[test]
fn time_after_a_reboot_is_not_before_the_save() {
    for unknown in [
        Clocks {
            boot: None,
            ..rebooted(-BOOT)
        },
        rebooted(-BOOT),
        rebooted(3_599_000),
    ] {
        let state = parse(&sample().text(&clocks()), &unknown).unwrap();
        assert_eq!(ends(&state), [at(66_000), at(10_000), Moment::NEVER]);
    }
    let unknown = Clocks {
        boot: None,
        ..clocks()
    };
    assert_eq!(parse(&sample().text(&unknown), &unknown), Ok(sample()));
    let set_back = Clocks {
        date: 0,
        ..unknown.clone()
    };
    assert_eq!(parse(&sample().text(&unknown), &set_back), Ok(sample()));
}

#[test]
fn saving_shortens_no_lease() {
    let state = State {
        last_token: 1,
        holders: vec![held("a", "h", 1, Moment(Duration::from_nanos(1_000_001)))],
    };
    assert_eq!(
        parse(&state.text(&clocks()), &clocks()).unwrap().holders[0].expires,
        at(2)
    );
}

#[test]
fn state_truncated_anywhere_is_refused() {
    let text = sample().text(&clocks());
    for length in 0..text.len() - 1 {
        if let Some(cut) = text.get(..length) {
            assert!(
                parse(cut, &clocks())
                    .is_err_and(|error| error.starts_with("f: not JSON: EOF while parsing")),
                "{cut}"
            );
        }
    }
}

#[test]
fn each_invalid_field_is_refused_by_its_name() {
    const SAVED: &str = r#""version": 1, "saved": {"date": 1, "uptime": 1}"#;
    let pool =
        |holders: &str| format!(r#"{{{SAVED}, "last_token": 9, "pools": {{"a": {holders}}}}}"#);
    let holder = |fields: &str| pool(&format!("[{{{fields}}}]"));
    for (text, why) in [
        ("[]".into(), r#""version": expected an integer"#),
        ("{}".into(), r#""version": expected an integer"#),
        (
            r#"{"version": 2}"#.into(),
            r#"written by another distributexd: "version" is 2, not 1"#,
        ),
        (
            r#"{"version": 1}"#.into(),
            r#""saved.date": expected an integer"#,
        ),
        (
            r#"{"version": 1, "saved": {"date": 1}}"#.into(),
            r#""saved.uptime": expected an integer"#,
        ),
        (
            format!(r#"{{{SAVED}, "pools": {{}}}}"#),
            r#""last_token": expected an integer"#,
        ),
        (
            format!(r#"{{{SAVED}, "last_token": 9}}"#),
            r#""pools": expected an object"#,
        ),
        (pool("{}"), r#""pools.a": expected a list"#),
        (
            pool("[5]"),
            r#""pools.a[0].host": expected the name of a host"#,
        ),
        (
            holder(r#""host": "h,i""#),
            r#""pools.a[0].host": expected the name of a host"#,
        ),
        (
            holder(r#""host": "h""#),
            r#""pools.a[0].token": expected an integer"#,
        ),
        (
            holder(r#""host": "h", "token": 1.5"#),
            r#""pools.a[0].token": expected an integer"#,
        ),
        (
            holder(r#""host": "h", "token": 1"#),
            r#""pools.a[0].since": expected an integer"#,
        ),
        (
            holder(r#""host": "h", "token": 1, "since": 0"#),
            r#""pools.a[0].expires": expected an integer"#,
        ),
        (
            holder(r#""host": "h", "token": 10, "since": 0, "expires": 0"#),
            r#""last_token": expected the greatest of all tokens"#,
        ),
        (
            holder(
                r#""host": "h", "token": 1, "since": 0, "expires": 0}, {"host": "h", "token": 2, "since": 0, "expires": 0"#,
            ),
            r#""pools.a": expected each host once"#,
        ),
        (
            format!("{}x", sample().text(&clocks())),
            "not JSON: trailing characters at line 34 column 1",
        ),
    ] {
        let end = "; with other holders than before, locks could be granted twice: restore the file, or move it away once no client holds a lock";
        assert_eq!(
            parse(&text, &clocks()),
            Err(format!("f: {why}{end}")),
            "{text}"
        );
    }
}

#[test]
fn extreme_numbers_do_not_panic() {
    for date in [i64::MIN, -1, 0, i64::MAX] {
        for (now, uptime) in [(i64::MIN, i64::MAX), (0, 0), (i64::MAX, i64::MIN)] {
            let text = format!(
                r#"{{"version": 1, "saved": {{"date": {date}, "uptime": {uptime}}}, "last_token": {max}, "pools": {{"a": [{{"host": "h", "token": {max}, "since": {date}, "expires": {date}}}]}}}}"#,
                max = i64::MAX
            );
            let clocks = Clocks {
                boot: None,
                date: now,
                uptime,
            };
            parse(&parse(&text, &clocks).unwrap().text(&clocks), &clocks).unwrap();
        }
    }
}
