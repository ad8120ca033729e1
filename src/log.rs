//! Log lines, one for each event: in the log file, which logrotate may rename and which cannot
//! block the program, and on stderr. Neither can stop a run: a line that cannot be written is lost,
//! and the first failure to write the log file is printed on stderr.

use crate::plan::{self, Level, Style, Warning};
use std::fmt::Display;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::sys::clock::{LocalTime, local_time};
use crate::sys::poll::has_room;

/// The topic of a line; each has its own lowest level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Topic {
    /// Lock, command, signals.
    Run,
    /// Connection and session.
    Session,
}

/// The log of a run.
#[derive(Debug)]
pub struct Log {
    /// Starts each line on stderr.
    program: &'static str,
    style: Style,
    /// Whether lines go to stderr, too.
    verbose: bool,
    path: Option<PathBuf>,
    level: Level,
    session_level: Level,
    /// The log file, opened for the first line.
    opened: Option<Opened>,
    /// Whether a failure to open or write the log file was printed.
    failure_printed: bool,
}

/// An open log file, with its identity.
#[derive(Debug)]
struct Opened {
    file: File,
    identity: Identity,
}

/// Device and inode.
type Identity = (u64, u64);

impl Log {
    /// Creates the log of a plan, and logs the plan's warnings. The file is opened for the first
    /// line that goes there.
    pub fn new(plan: &plan::Log, program: &'static str, verbose: bool) -> Log {
        let plan::Log {
            style,
            path,
            level,
            session_level,
            warnings,
        } = plan;
        let (style, path, level, session_level) = (*style, path.clone(), *level, *session_level);
        let mut log = Log {
            program,
            style,
            verbose,
            path,
            level,
            session_level,
            opened: None,
            failure_printed: false,
        };
        for warning in warnings {
            match warning {
                Warning::Logged(sentence) => log.write(Topic::Run, Level::Warning, sentence),
                Warning::Shown(sentence) => log.warn(sentence),
                Warning::Hint(sentence) if io::stderr().is_terminal() => {
                    print(program, &format_args!("hint: {sentence}"));
                }
                Warning::Hint(_) => {}
            }
        }
        log
    }

    /// Writes a line to the log file, and with `verbose` to stderr.
    pub fn write(&mut self, topic: Topic, level: Level, message: &dyn Display) {
        if !self.is_printed(level) && !self.is_recorded(topic, level) {
            return;
        }
        let message = one_line(message);
        if self.is_printed(level) {
            self.print_styled(level, &message);
        }
        self.record(topic, level, &message);
    }

    /// Prints a line on stderr if that is a terminal. With `verbose` stderr has the log already.
    pub fn hint(&self, message: &dyn Display) {
        if !self.verbose && io::stderr().is_terminal() {
            print(self.program, message);
        }
    }

    /// Prints a line on stderr, in the same format for every style, and logs it as an error.
    pub fn error(&mut self, message: &dyn Display) {
        let message = one_line(message);
        write_stderr(plain(self.program, &message));
        self.record(Topic::Run, Level::Error, &message);
    }

    /// Prints a warning on stderr, and logs it.
    pub fn warn(&mut self, message: &dyn Display) {
        let message = one_line(message);
        match self.style {
            Style::Plain => write_stderr(plain(self.program, &format!("WARNING: {message}"))),
            Style::Glog => self.print_styled(Level::Warning, &message),
        }
        self.record(Topic::Run, Level::Warning, &message);
    }

    /// Whether lines of this level go to stderr. Glog style has no log file, so warnings go there
    /// without `verbose`, too; the error that ends a run is printed separately.
    fn is_printed(&self, level: Level) -> bool {
        if self.verbose {
            level >= Level::Info
        } else {
            self.style == Style::Glog && level == Level::Warning
        }
    }

    /// Whether lines of this topic and level go to the log file.
    fn is_recorded(&self, topic: Topic, level: Level) -> bool {
        let least = match topic {
            Topic::Run => self.level,
            Topic::Session => self.session_level,
        };
        self.path.is_some() && level >= least
    }

    fn print_styled(&self, level: Level, message: &str) {
        write_stderr(match self.style {
            Style::Plain => plain(self.program, message),
            Style::Glog => {
                let (seconds, micros) = unix_time();
                glog(
                    &local_time(seconds),
                    micros,
                    level,
                    process::id(),
                    self.program,
                    message,
                )
            }
        });
    }

    fn record(&mut self, topic: Topic, level: Level, message: &str) {
        let Some(path) = self
            .path
            .as_ref()
            .filter(|_| self.is_recorded(topic, level))
        else {
            return;
        };
        let line = line(&local_time(unix_time().0), level, process::id(), message);
        if let Err(error) = append(&mut self.opened, path, &line)
            && !self.failure_printed
        {
            self.failure_printed = true;
            print(
                self.program,
                &format_args!("cannot write log {}: {error}", path.display()),
            );
        }
    }
}

/// Prints a line on stderr: `program: message`.
pub fn print(program: &str, message: &dyn Display) {
    write_stderr(plain(program, &one_line(message)));
}

/// Prints a line on stderr about an event in a server, with time and level.
pub fn print_event(program: &str, level: Level, message: &dyn Display) {
    write_stderr(dated(
        program,
        &local_time(unix_time().0),
        level,
        &one_line(message),
    ));
}

/// The most bytes of a line on stderr: a pipe that is not full accepts that many at once
/// (PIPE_BUF).
const MAX_LINE: usize = 4096;

/// Writes a line to stderr. A closed stderr is ignored, and a full one is not waited for.
fn write_stderr(line: String) {
    let mut line = line.into_bytes();
    line.truncate(MAX_LINE - 1);
    line.push(b'\n');
    let mut stderr = io::stderr().lock();
    if has_room(&stderr) {
        let _ = stderr.write_all(&line);
    }
}

/// A line on stderr in plain style.
fn plain(program: &str, message: &str) -> String {
    format!("{program}: {message}")
}

/// A line on stderr in the format of Google's logging library; the program's name replaces the
/// source file, and the line number is 0.
fn glog(
    now: &LocalTime,
    micros: u32,
    level: Level,
    pid: u32,
    program: &str,
    message: &str,
) -> String {
    let LocalTime {
        month,
        day,
        hour,
        minute,
        second,
        ..
    } = now;
    let level = match level {
        Level::Debug => 'D',
        Level::Info => 'I',
        Level::Warning => 'W',
        Level::Error => 'E',
        Level::Critical => 'F',
    };
    format!(
        "{level}{month:02}{day:02} {hour:02}:{minute:02}:{second:02}.{micros:06} {pid} {program}:0] {message}"
    )
}

/// A line of the log file in the format of Python's logging.
fn line(now: &LocalTime, level: Level, pid: u32, message: &str) -> String {
    format!("{} {:<8}{pid} {message}\n", time(now), name(level))
}

/// A line on stderr with time and level.
fn dated(program: &str, now: &LocalTime, level: Level, message: &str) -> String {
    format!("{program}: {} {} {message}", time(now), name(level))
}

/// `2026-11-21 09:24:00`
fn time(
    LocalTime {
        year,
        month,
        day,
        hour,
        minute,
        second,
    }: &LocalTime,
) -> String {
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// The name of the level in Python's logging.
fn name(level: Level) -> &'static str {
    match level {
        Level::Debug => "DEBUG",
        Level::Info => "INFO",
        Level::Warning => "WARNING",
        Level::Error => "ERROR",
        Level::Critical => "CRITICAL",
    }
}

/// Escapes characters that could end the line or control a terminal.
fn one_line(message: &dyn Display) -> String {
    let mut escaped = String::new();
    for character in message.to_string().chars() {
        if character.is_control() {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// Appends a line, in one write, to the file that is at `path` now.
fn append(opened: &mut Option<Opened>, path: &Path, line: &str) -> io::Result<()> {
    let there = fs::metadata(path).ok().map(|metadata| identity(&metadata));
    let log = match opened {
        Some(log) if Some(log.identity) == there => log,
        _ => opened.insert(open(path)?),
    };
    match log.file.write(line.as_bytes())? {
        written if written < line.len() => Err(io::ErrorKind::StorageFull.into()),
        _ => Ok(()),
    }
}

/// O_NONBLOCK and O_NOCTTY of Linux: a pipe without a reader does not block the program, and a
/// terminal does not become its controlling terminal.
const NEVER_WAIT: i32 = 0o4000 | 0o400;

fn open(path: &Path) -> io::Result<Opened> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .custom_flags(NEVER_WAIT)
        .open(path)?;
    let identity = identity(&file.metadata()?);
    Ok(Opened { file, identity })
}

fn identity(metadata: &Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

/// Seconds since 1970, and the microseconds of the current second.
fn unix_time() -> (i64, u32) {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    (now.as_secs().cast_signed(), now.subsec_micros())
}

#[cfg(test)]
mod tests {
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
}
