use super::*;

/// A directory for one test, removed after it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("zk-flock-log-{}-{name}", process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn log(&self) -> (PathBuf, Log) {
        let path = self.0.join("log");
        let log = Log::new(&plan(Some(path.clone())), "zk-flock", false);
        (path, log)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn plan(path: Option<PathBuf>) -> plan::Log {
    plan::Log {
        style: Style::Plain,
        path,
        level: Level::Info,
        session_level: Level::Warning,
        warnings: Vec::new(),
    }
}

/// The messages in a log file.
fn messages(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|line| {
            line.split_once(&format!("{} ", process::id()))
                .unwrap()
                .1
                .to_owned()
        })
        .collect()
}

#[test]
fn line_has_the_format_of_python_logging() {
    let now = LocalTime {
        year: 2026,
        month: 11,
        day: 21,
        hour: 9,
        minute: 24,
        second: 0,
        utc_offset: 0,
    };
    for (level, expected) in [
        (Level::Debug, "2026-11-21 09:24:00 DEBUG   1234 a b\n"),
        (Level::Info, "2026-11-21 09:24:00 INFO    1234 a b\n"),
        (Level::Warning, "2026-11-21 09:24:00 WARNING 1234 a b\n"),
        (Level::Error, "2026-11-21 09:24:00 ERROR   1234 a b\n"),
        (Level::Critical, "2026-11-21 09:24:00 CRITICAL1234 a b\n"),
    ] {
        assert_eq!(line(&now, level, 1234, "a b"), expected);
    }
}

#[test]
fn server_line_has_name_time_and_level() {
    let now = LocalTime {
        year: 2026,
        month: 11,
        day: 21,
        hour: 9,
        minute: 24,
        second: 0,
        utc_offset: 0,
    };
    assert_eq!(
        dated("distributexd", &now, Level::Warning, "a b"),
        "distributexd: 2026-11-21 09:24:00 WARNING a b"
    );
}

#[test]
fn stderr_line_has_the_format_of_glog() {
    let now = LocalTime {
        year: 2026,
        month: 11,
        day: 21,
        hour: 9,
        minute: 24,
        second: 0,
        utc_offset: 0,
    };
    for (level, expected) in [
        (Level::Debug, "D1121 09:24:00.000456 1234 lockex:0] a b"),
        (Level::Info, "I1121 09:24:00.000456 1234 lockex:0] a b"),
        (Level::Warning, "W1121 09:24:00.000456 1234 lockex:0] a b"),
        (Level::Error, "E1121 09:24:00.000456 1234 lockex:0] a b"),
        (Level::Critical, "F1121 09:24:00.000456 1234 lockex:0] a b"),
    ] {
        assert_eq!(glog(&now, 456, level, 1234, "lockex", "a b"), expected);
    }
}

#[test]
fn verbose_prints_the_log_and_glog_style_prints_warnings() {
    for (style, verbose, told) in [
        (Style::Plain, false, &[][..]),
        (Style::Glog, false, &[Level::Warning]),
        (
            Style::Plain,
            true,
            &[Level::Info, Level::Warning, Level::Error],
        ),
        (
            Style::Glog,
            true,
            &[Level::Info, Level::Warning, Level::Error],
        ),
    ] {
        let log = Log::new(
            &plan::Log {
                style,
                ..plan(None)
            },
            "lockex",
            verbose,
        );
        let levels = [Level::Debug, Level::Info, Level::Warning, Level::Error];
        assert_eq!(
            levels
                .into_iter()
                .filter(|&level| log.is_printed(level))
                .collect::<Vec<_>>(),
            told,
            "{style:?} {verbose}"
        );
    }
}

#[test]
fn control_characters_are_escaped() {
    assert_eq!(
        one_line(&"a\nb\r\tc\x1b[1md\0\u{85}\\ замок"),
        "a\\nb\\r\\tc\\u{1b}[1md\\u{0}\\u{85}\\ замок"
    );
}

#[test]
fn each_topic_has_its_own_level() {
    let folder = Folder::new("levels");
    let (path, mut log) = folder.log();
    log.write(Topic::Run, Level::Debug, &"run, debug");
    assert!(!path.exists(), "no file before the first line");
    log.write(Topic::Run, Level::Info, &"run, info");
    log.write(Topic::Session, Level::Info, &"session, info");
    log.write(Topic::Session, Level::Warning, &"session, warning");
    log.error(&"lost");
    assert_eq!(messages(&path), ["run, info", "session, warning", "lost"]);
}

#[test]
fn warnings_of_the_plan_come_first() {
    let folder = Folder::new("warnings");
    let path = folder.0.join("log");
    let warnings = vec![
        "one".into(),
        Warning::Hint("for a terminal".into()),
        Warning::Shown("two".into()),
    ];
    let plan = plan::Log {
        warnings,
        ..plan(Some(path.clone()))
    };
    Log::new(&plan, "zk-flock", false).write(Topic::Run, Level::Info, &"three");
    assert_eq!(messages(&path), ["one", "two", "three"]);
}

#[test]
fn moved_or_deleted_log_file_is_created_again() {
    let folder = Folder::new("moved");
    let (path, mut log) = folder.log();
    let moved = folder.0.join("moved");
    log.write(Topic::Run, Level::Info, &"one");
    fs::rename(&path, &moved).unwrap();
    log.write(Topic::Run, Level::Info, &"two");
    log.write(Topic::Run, Level::Info, &"three");
    assert_eq!(
        [messages(&moved), messages(&path)],
        [vec!["one"], vec!["two", "three"]]
    );
    fs::remove_file(&path).unwrap();
    log.write(Topic::Run, Level::Info, &"four");
    assert_eq!(messages(&path), ["four"]);
    assert!(!log.failure_printed);
}

#[test]
fn lines_of_other_writers_are_kept() {
    let folder = Folder::new("append");
    let (path, mut log) = folder.log();
    let (_, mut other) = folder.log();
    for (log, message) in [(&mut log, "one"), (&mut other, "two")] {
        log.write(Topic::Run, Level::Info, &message);
    }
    log.write(Topic::Run, Level::Info, &"three");
    assert_eq!(messages(&path), ["one", "two", "three"]);
}

#[test]
fn log_that_cannot_be_opened_is_tried_again() {
    let folder = Folder::new("missing");
    let path = folder.0.join("not-yet/log");
    let mut log = Log::new(&plan(Some(path.clone())), "zk-flock", false);
    log.write(Topic::Run, Level::Info, &"lost");
    assert!(log.failure_printed);
    fs::create_dir(folder.0.join("not-yet")).unwrap();
    log.write(Topic::Run, Level::Info, &"kept");
    assert_eq!(messages(&path), ["kept"]);
}

#[test]
fn full_device_and_pipe_without_reader_do_not_block() {
    let folder = Folder::new("pipe");
    let pipe = folder.0.join("pipe");
    assert!(
        process::Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    for path in [pipe, "/dev/full".into(), folder.0.clone()] {
        let mut log = Log::new(&plan(Some(path)), "zk-flock", false);
        log.write(Topic::Run, Level::Info, &"lost");
        assert!(log.failure_printed);
    }
}

#[test]
fn full_pipe_loses_the_line() {
    let folder = Folder::new("full-pipe");
    let pipe = folder.0.join("pipe");
    assert!(
        process::Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let _reader = OpenOptions::new()
        .read(true)
        .custom_flags(NEVER_WAIT)
        .open(&pipe)
        .unwrap();
    let mut log = Log::new(&plan(Some(pipe)), "zk-flock", false);
    while !log.failure_printed {
        log.write(Topic::Run, Level::Info, &"x".repeat(1000));
    }
}
