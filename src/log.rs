//! Log lines, one for each event: in the log file, which logrotate may rename and which cannot
//! block the program, and on stderr. Neither can stop a run: a line that cannot be written is lost,
//! and the first failure to write the log file is printed on stderr.

use crate::plan::{self, Level, Style, Warning};
use crate::printable::is_unprintable;
use crate::reason::reason;
use std::fmt::Display;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;

use crate::sys::clock::{self, LocalTime, local_time};
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
    /// Prints a line on stderr.
    print: fn(String),
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
            print: write_stderr,
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

    /// The same log, whose lines for stderr go to this function.
    #[must_use]
    pub fn printing_by(self, print: fn(String)) -> Log {
        Log { print, ..self }
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
        (self.print)(plain(self.program, &message));
        self.record(Topic::Run, Level::Error, &message);
    }

    /// Prints a warning on stderr, and logs it.
    pub fn warn(&mut self, message: &dyn Display) {
        let message = one_line(message);
        match self.style {
            Style::Plain => (self.print)(plain(self.program, &format!("WARNING: {message}"))),
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
        (self.print)(match self.style {
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
                &format_args!(
                    "cannot write log {}: {}; the run continues without it",
                    path.display(),
                    reason(&error)
                ),
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
        ..
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
        if is_unprintable(character) {
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
    let now = clock::unix_time();
    (now.as_secs().cast_signed(), now.subsec_micros())
}

#[cfg(test)]
mod tests;
