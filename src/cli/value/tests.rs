use super::*;

fn read<T>(kind: &ValueKind<T>, text: &str) -> Option<T> {
    kind.take("--option", &mut Parser::from_args([text])).ok()
}

const JUNK: [&str; 11] = [
    "", " ", "nan", "NaN", "1e300", "-1e300", "1e999", "-1e999", "1,5", "5S", "soon",
];

#[test]
fn seconds_may_be_fractions_and_infinite() {
    for (text, seconds) in [
        ("0", 0.0),
        ("-0", 0.0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("5.", 5.0),
        (" 7 ", 7.0),
        ("+1", 1.0),
        ("1e3", 1000.0),
        ("1e9", 1e9),
    ] {
        assert_eq!(
            read(&SECONDS, text),
            Some(Duration::from_secs_f64(seconds)),
            "{text}"
        );
        assert_eq!(
            read(&WAIT, text),
            Some(Duration::from_secs_f64(seconds)),
            "{text}"
        );
    }
    for text in ["inf", "INF", "infinity", "+inf"] {
        assert_eq!(read(&SECONDS, text), Some(Duration::MAX), "{text}");
        assert_eq!(read(&WAIT, text), Some(Duration::MAX), "{text}");
    }
    for text in JUNK.iter().chain(&["-1", "-inf", "1.1e9"]) {
        assert_eq!(read(&SECONDS, text), None, "{text}");
    }
}

#[test]
fn duration_may_have_units() {
    for (text, seconds) in [
        ("5s", 5.0),
        ("1m", 60.0),
        ("2h", 7200.0),
        ("1d", 86400.0),
        ("1h30m", 5400.0),
        ("1d2h3m4.5s", 93784.5),
        ("1.5h", 5400.0),
        (".5m", 30.0),
        ("0s", 0.0),
        (" 5m ", 300.0),
    ] {
        let expected = Duration::from_secs_f64(seconds);
        assert_eq!(
            (read(&SECONDS, text), read(&WAIT, text)),
            (Some(expected), Some(expected)),
            "{text}"
        );
        assert_eq!(
            read(&TIMEOUT, text),
            (seconds > 0.0 && seconds < 2e6).then_some(expected),
            "{text}"
        );
        assert_eq!(read(&LOAD, text), None, "{text}");
    }
    for text in [
        "s",
        "5x",
        "5 s",
        "1m1h",
        "1s1s",
        "1h30",
        "5ms",
        "1.2.3s",
        "-5s",
        "1e3s",
        "infs",
        "32000000000s",
        "5s,",
        "5é",
        "5.",
    ] {
        let is_number = text == "5.";
        assert_eq!(read(&SECONDS, text).is_some(), is_number, "{text}");
    }
}

/// Every row was checked with optparse of Python 2.7, as an option with `type=int`.
#[test]
fn whole_numbers_are_those_of_optparse() {
    for (text, number) in [
        ("9", Some(9)),
        ("011", Some(9)),
        ("0x9", Some(9)),
        ("0X1f", Some(31)),
        ("0b11", Some(3)),
        ("0B1", Some(1)),
        ("0b", Some(0)),
        ("0o17", Some(15)),
        ("0", Some(0)),
        ("00", Some(0)),
        ("011 ", Some(9)),
        (" 011", Some(11)),
        ("+011", Some(11)),
        ("-011", Some(-11)),
        ("-1", Some(-1)),
        (" 5 ", Some(5)),
        ("08", None),
        ("0x", None),
        ("0o", None),
        ("0xg", None),
        ("0b2", None),
        ("-0x9", None),
        ("1.0", None),
        ("1e1", None),
        ("", None),
        (" ", None),
        ("é", None),
    ] {
        assert_eq!(optparse_int(text), number, "{text:?}");
    }
}

#[test]
fn leading_zero_that_changes_the_number_is_warned_of() {
    let take = |text: &str| {
        let mut warnings = Vec::new();
        let value = EXIT_CODE.take_int("--exitcode", &mut Parser::from_args([text]), &mut warnings);
        (value.map_err(|fault| fault.to_string()), warnings)
    };
    for (text, code) in [("9", 9), ("0x9", 9), ("07", 7), ("0", 0), ("00", 0)] {
        assert_eq!(take(text), (Ok(code), vec![]), "{text}");
    }
    let sentence = "--exitcode: \"011\" begins with a zero, which means octal: its value is 9 (write 9, or 11 if you meant that)";
    assert_eq!(
        take("011"),
        (Ok(9), vec![Warning::Shown(sentence.to_owned())])
    );
    let sentence = "--exitcode: \"08\" begins with a zero, which means octal, but is not an octal number: write 8";
    assert_eq!(take("08"), (Err(sentence.to_owned()), vec![]));
}

#[test]
fn wait_below_zero_means_one_try() {
    for text in ["0", "-1", "-0.5", "-inf"] {
        assert_eq!(read(&WAIT, text), Some(Duration::ZERO), "{text}");
    }
    for text in JUNK {
        assert_eq!(read(&WAIT, text), None, "{text}");
    }
}

#[test]
fn timeout_is_whole_milliseconds_in_31_bits() {
    for (text, millis) in [
        ("0.001", 1),
        ("5", 5_000),
        ("2.5", 2_500),
        ("2147483", 2_147_483_000),
    ] {
        assert_eq!(
            read(&TIMEOUT, text),
            Some(Duration::from_millis(millis)),
            "{text}"
        );
    }
    for text in JUNK.iter().chain(&["0", "-1", "0.0009", "inf", "2147484"]) {
        assert_eq!(read(&TIMEOUT, text), None, "{text}");
    }
}

#[test]
fn numbers_out_of_range_are_refused() {
    assert_eq!(
        [
            read(&LOAD, "30"),
            read(&LOAD, "-1"),
            read(&LOAD, "0.5"),
            read(&LOAD, "inf")
        ],
        [30.0, -1.0, 0.5, f64::INFINITY].map(Some)
    );
    for text in JUNK {
        assert_eq!(read(&LOAD, text), None, "{text}");
    }
    for code in 0..=255u8 {
        assert_eq!(read(&EXIT_CODE, &code.to_string()), Some(code));
    }
    for text in JUNK.iter().chain(&["256", "-1", "1.5", "inf", "5s"]) {
        assert_eq!(read(&EXIT_CODE, text), None, "{text}");
    }
    for port in [0, 1, 9889, 65535] {
        assert_eq!(read(&PORT, &port.to_string()), Some(port));
    }
    for text in JUNK.iter().chain(&["65536", "-1", "1.5", "inf", "http"]) {
        assert_eq!(read(&PORT, text), None, "{text}");
    }
    assert_eq!(
        [read(&NAMES, "0"), read(&NAMES, "10000")],
        [Some(0), Some(10_000)]
    );
    for text in JUNK
        .iter()
        .chain(&["10001", "-1", "1.5", "inf", "99999999999999999999"])
    {
        assert_eq!(read(&NAMES, text), None, "{text}");
    }
}

#[test]
fn counts_below_their_range_have_a_meaning() {
    for (text, concurrency, tries) in [
        ("1", 1, Some(1)),
        (" 10 ", 10, Some(10)),
        ("010", 10, Some(10)),
        ("0", 1, Some(0)),
        ("-1", 1, None),
        ("-7", 1, None),
        ("4294967295", u32::MAX, Some(u32::MAX)),
    ] {
        assert_eq!(
            (read(&CONCURRENCY, text), read(&TRIES, text)),
            (Some(concurrency), Some(tries)),
            "{text}"
        );
    }
    for text in JUNK
        .iter()
        .chain(&["1.5", "inf", "4294967296", "99999999999999999999"])
    {
        assert_eq!(
            (read(&CONCURRENCY, text), read(&TRIES, text)),
            (None, None),
            "{text}"
        );
    }
}

#[test]
fn signal_0_means_none() {
    for (text, signal) in [
        ("0", None),
        ("00", None),
        ("0x0", None),
        ("017", Some(Signal::TERM)),
        ("0xf", Some(Signal::TERM)),
        ("15", Some(Signal::TERM)),
        ("KILL", Some(Signal::KILL)),
        ("sigusr1", Some(Signal::USR1)),
    ] {
        assert_eq!(read(&SIGNAL, text), Some(signal), "{text}");
    }
    for text in JUNK.iter().chain(&["65", "-1", "09", "SIGNOT"]) {
        assert_eq!(read(&SIGNAL, text), None, "{text}");
    }
}

#[test]
fn refusal_names_option_expectation_and_value() {
    let fault = SECONDS
        .take("--minlocktime", &mut Parser::from_args(["soon"]))
        .unwrap_err();
    assert_eq!(
        fault.to_string(),
        "--minlocktime: expected seconds from 0 to 1e9, a time like 1h30m, or inf, found \"soon\""
    );
}
