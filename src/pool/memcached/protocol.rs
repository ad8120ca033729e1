//! The part of memcached's text protocol (its doc/protocol.txt) that pools need: five commands and
//! their replies. An incomplete reply is not an error; one that cannot become complete is.

use std::fmt::Write;

/// The longest line of a reply, in bytes: `VALUE` with a key of at most 250 bytes and three
/// numbers, or an error message.
const LONGEST_LINE: usize = 1024;

/// The largest value that is accepted, in bytes: memcached's default limit. It has room for at
/// least 4,000 hosts.
const LARGEST_VALUE: usize = 1 << 20;

/// The most values of one reply: one command asks for as many keys.
const MOST_VALUES: usize = 3;

const END_OF_LINE: &[u8] = b"\r\n";

/// A command to memcached. Keys have no spaces and no control characters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command<'a> {
    /// Reads values and their versions. memcached reads the keys one after another, in this order;
    /// a key may be read twice.
    Gets {
        /// `MOST_VALUES` at most.
        keys: &'a [&'a str],
    },
    /// Asks how many seconds an item has left. Unknown to memcached before 1.6.
    TimeLeft {
        /// The key of the item.
        key: &'a str,
    },
    /// Stores a value if the item still has this version.
    Cas {
        /// The key of the item.
        key: &'a str,
        /// As memcached reads it: 0 is never, up to 30 days are seconds from now, more is a date.
        expires: u64,
        /// The version that is replaced.
        version: u64,
        /// The new value.
        value: &'a str,
    },
    /// Stores a value if the key does not exist.
    Add {
        /// The key of the item.
        key: &'a str,
        /// As in `Cas`.
        expires: u64,
        /// The value.
        value: &'a str,
    },
    /// Adds to a stored number and returns the sum. `by` may be 0.
    Incr {
        /// The key of the number.
        key: &'a str,
        /// How much is added.
        by: u64,
    },
}

impl<'a> Command<'a> {
    /// Replaces the item of this version; `None`: creates the item.
    pub fn write_over(
        key: &'a str,
        version: Option<u64>,
        expires: u64,
        value: &'a str,
    ) -> Command<'a> {
        match version {
            Some(version) => Command::Cas {
                key,
                expires,
                version,
                value,
            },
            None => Command::Add {
                key,
                expires,
                value,
            },
        }
    }

    /// Appends the command to the bytes to send. Flags are 0, as the original writes them.
    pub fn write(&self, out: &mut String) {
        let _ = match self {
            Command::Gets { keys } => write!(out, "gets {}\r\n", keys.join(" ")),
            Command::TimeLeft { key } => write!(out, "mg {key} t\r\n"),
            Command::Cas {
                key,
                expires,
                version,
                value,
            } => write!(
                out,
                "cas {key} 0 {expires} {} {version}\r\n{value}\r\n",
                value.len()
            ),
            Command::Add {
                key,
                expires,
                value,
            } => write!(out, "add {key} 0 {expires} {}\r\n{value}\r\n", value.len()),
            Command::Incr { key, by } => write!(out, "incr {key} {by}\r\n"),
        };
    }
}

/// A reply of memcached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// The stored values of the keys, in the order of the command (`VALUE` lines, then `END`).
    Values(Vec<Value>),
    /// How many seconds the item has left (`HD t…`); `None`: it does not expire.
    TimeLeft(Option<u64>),
    /// The item does not exist (`EN`).
    Nothing,
    /// The value is stored.
    Stored,
    /// The value is not stored: the key exists.
    NotStored,
    /// The value is not stored: the item has another version.
    Exists,
    /// The key does not exist.
    NotFound,
    /// The sum after `incr`.
    Number(u64),
    /// The command failed: the message of memcached.
    Error(String),
}

/// A stored item.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Value {
    /// Its key.
    pub key: String,
    /// What is stored.
    pub bytes: Vec<u8>,
    /// Different after each write.
    pub version: u64,
}

/// Why bytes are not a reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// A line is too long.
    LongLine,
    /// No reply begins with this line.
    UnknownLine,
    /// A value is larger than the limit.
    LargeValue,
    /// A value does not end where its length says.
    UnendedValue,
    /// A reply without a command, or of the wrong kind for it.
    Unasked,
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Malformed::LongLine => "a line of its reply is too long",
            Malformed::UnknownLine => {
                "its reply is not one of memcached (is another program listening there?)"
            }
            Malformed::LargeValue => "its reply has a value of more than 1 MiB",
            Malformed::UnendedValue => "its reply has a value that does not end where it says",
            Malformed::Unasked => "its reply does not match the request",
        })
    }
}

impl Reply {
    /// Removes the first reply from `from`; `Ok(None)`: it is incomplete.
    pub fn read(from: &mut &[u8]) -> Result<Option<Reply>, Malformed> {
        let mut rest = *from;
        let Some(line) = line(&mut rest)? else {
            return Ok(None);
        };
        let reply = match line {
            "END" => Reply::Values(Vec::new()),
            "EN" => Reply::Nothing,
            "HD t-1" => Reply::TimeLeft(None),
            "STORED" => Reply::Stored,
            "NOT_STORED" => Reply::NotStored,
            "EXISTS" => Reply::Exists,
            "NOT_FOUND" => Reply::NotFound,
            "ERROR" => Reply::Error("it does not know the command".to_owned()),
            _ => match line.split_once(' ') {
                Some(("ERROR" | "SERVER_ERROR" | "CLIENT_ERROR", why)) => {
                    Reply::Error(format!("it answered {why:?}"))
                }
                Some(("VALUE", about)) => match values(about, &mut rest)? {
                    Some(values) => Reply::Values(values),
                    None => return Ok(None),
                },
                Some(("HD", left)) => {
                    let seconds = left
                        .strip_prefix('t')
                        .and_then(|seconds| seconds.parse().ok());
                    Reply::TimeLeft(Some(seconds.ok_or(Malformed::UnknownLine)?))
                }
                // memcached pads a number that became shorter with spaces.
                _ => Reply::Number(
                    line.trim_ascii_end()
                        .parse()
                        .map_err(|_| Malformed::UnknownLine)?,
                ),
            },
        };
        *from = rest;
        Ok(Some(reply))
    }
}

/// Parses all values of a reply from its first `VALUE` line up to `END`. Copies nothing until the
/// reply is complete.
fn values<'a>(mut about: &'a str, rest: &mut &'a [u8]) -> Result<Option<Vec<Value>>, Malformed> {
    let mut values = Vec::new();
    loop {
        if values.len() == MOST_VALUES {
            return Err(Malformed::Unasked);
        }
        let Some(value) = value(about, rest)? else {
            return Ok(None);
        };
        values.push(value);
        let Some(line) = line(rest)? else {
            return Ok(None);
        };
        if line == "END" {
            break;
        }
        about = line.strip_prefix("VALUE ").ok_or(Malformed::UnendedValue)?;
    }
    let owned = |(key, value, version): Borrowed| Value {
        key: key.to_owned(),
        bytes: value.to_vec(),
        version,
    };
    Ok(Some(values.into_iter().map(owned).collect()))
}

/// Key, value, version.
type Borrowed<'a> = (&'a str, &'a [u8], u64);

/// Parses one value, from after `VALUE ` to the line break behind the value.
fn value<'a>(about: &'a str, rest: &mut &'a [u8]) -> Result<Option<Borrowed<'a>>, Malformed> {
    let words: Vec<_> = about.split(' ').collect();
    let &[key, _, length, version] = &words[..] else {
        return Err(Malformed::UnknownLine);
    };
    let (Ok(length), Ok(version)) = (length.parse::<u64>(), version.parse()) else {
        return Err(Malformed::UnknownLine);
    };
    let length = usize::try_from(length)
        .ok()
        .filter(|length| *length <= LARGEST_VALUE)
        .ok_or(Malformed::LargeValue)?;
    let Some((value, after)) = rest.split_at_checked(length) else {
        return Ok(None);
    };
    let end = &after[..after.len().min(END_OF_LINE.len())];
    if !END_OF_LINE.starts_with(end) {
        return Err(Malformed::UnendedValue);
    }
    *rest = &after[end.len()..];
    Ok((end == END_OF_LINE).then_some((key, value, version)))
}

/// Removes the first line from `from`, and returns it without its line break.
fn line<'a>(from: &mut &'a [u8]) -> Result<Option<&'a str>, Malformed> {
    let Some(length) = from
        .iter()
        .take(LONGEST_LINE)
        .position(|byte| *byte == b'\n')
    else {
        return if from.len() < LONGEST_LINE {
            Ok(None)
        } else {
            Err(Malformed::LongLine)
        };
    };
    let (line, rest) = from.split_at(length + 1);
    *from = rest;
    let line = line
        .strip_suffix(END_OF_LINE)
        .and_then(|line| str::from_utf8(line).ok());
    line.map(Some).ok_or(Malformed::UnknownLine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_written_in_memcacheds_format() {
        for (command, text) in [
            (
                Command::Gets {
                    keys: &["one:lockedby"],
                },
                "gets one:lockedby\r\n",
            ),
            (
                Command::Gets {
                    keys: &["a", "b", "a"],
                },
                "gets a b a\r\n",
            ),
            (
                Command::TimeLeft {
                    key: "one:lockedby",
                },
                "mg one:lockedby t\r\n",
            ),
            (
                Command::Cas {
                    key: "one:lockedby",
                    expires: 1800,
                    version: 7,
                    value: "a,b",
                },
                "cas one:lockedby 0 1800 3 7\r\na,b\r\n",
            ),
            (
                Command::Cas {
                    key: "k",
                    expires: 0,
                    version: u64::MAX,
                    value: "",
                },
                "cas k 0 0 0 18446744073709551615\r\n\r\n",
            ),
            (
                Command::Add {
                    key: "k",
                    expires: 5,
                    value: "замок",
                },
                "add k 0 5 10\r\nзамок\r\n",
            ),
            (
                Command::Incr {
                    key: "one:token",
                    by: 0,
                },
                "incr one:token 0\r\n",
            ),
        ] {
            let mut written = String::new();
            command.write(&mut written);
            assert_eq!(written, text);
        }
    }

    /// All kinds of replies, as memcached 1.6.18 sent them (`ERROR` was added by hand).
    const REPLIES: &[u8] = b"END\r\nSTORED\r\nVALUE one:lockedby 0 3 12\r\na,b\r\nEND\r\nVALUE k 0 0 13\r\n\r\nEND\r\nVALUE k 0 1 14\r\na\r\nVALUE l 0 8 9\r\n1\r\nEND\r\n\r\nVALUE k 0 1 14\r\na\r\nEND\r\n\
        HD t-1\r\nHD t60\r\nEN\r\nEXISTS\r\nNOT_FOUND\r\nNOT_STORED\r\n\
        1763712345678901\r\n99  \r\nCLIENT_ERROR cannot increment or decrement non-numeric value\r\nSERVER_ERROR out of memory storing object\r\nERROR\r\n";

    fn stored(key: &str, value: &str, version: u64) -> Value {
        Value {
            key: key.into(),
            bytes: value.into(),
            version,
        }
    }

    fn replies() -> Vec<Reply> {
        vec![
            Reply::Values(Vec::new()),
            Reply::Stored,
            Reply::Values(vec![stored("one:lockedby", "a,b", 12)]),
            Reply::Values(vec![stored("k", "", 13)]),
            Reply::Values(vec![
                stored("k", "a", 14),
                stored("l", "1\r\nEND\r\n", 9),
                stored("k", "a", 14),
            ]),
            Reply::TimeLeft(None),
            Reply::TimeLeft(Some(60)),
            Reply::Nothing,
            Reply::Exists,
            Reply::NotFound,
            Reply::NotStored,
            Reply::Number(1_763_712_345_678_901),
            Reply::Number(99),
            Reply::Error("it answered \"cannot increment or decrement non-numeric value\"".into()),
            Reply::Error("it answered \"out of memory storing object\"".into()),
            Reply::Error("it does not know the command".into()),
        ]
    }

    #[test]
    fn replies_are_read_in_order() {
        let mut rest = REPLIES;
        let read: Vec<_> = std::iter::from_fn(|| Reply::read(&mut rest).unwrap()).collect();
        assert_eq!((read, rest), (replies(), &b""[..]));
    }

    #[test]
    fn replies_cut_at_any_byte_are_completed_by_the_rest() {
        for cut in 0..=REPLIES.len() {
            let mut held = Vec::new();
            let mut read = Vec::new();
            for piece in [&REPLIES[..cut], &REPLIES[cut..]] {
                held.extend_from_slice(piece);
                let mut rest = &held[..];
                while let Some(reply) = Reply::read(&mut rest).unwrap() {
                    read.push(reply);
                }
                held = rest.to_vec();
            }
            assert_eq!(read, replies(), "cut at {cut}");
        }
    }

    #[test]
    fn malformed_reply_is_detected_before_it_is_complete() {
        let long = [b'x'; LONGEST_LINE];
        for (bytes, flaw) in [
            (&long[..], Malformed::LongLine),
            (b"HTTP/1.1 400 Bad Request\r\n", Malformed::UnknownLine),
            (b"STORED\n", Malformed::UnknownLine),
            (b"\r\n", Malformed::UnknownLine),
            (b"-1\r\n", Malformed::UnknownLine),
            (b"\xff\r\n", Malformed::UnknownLine),
            (b"99999999999999999999\r\n", Malformed::UnknownLine),
            (b"VALUE k 0 3\r\n", Malformed::UnknownLine),
            (b"VALUE k 0 x 1\r\n", Malformed::UnknownLine),
            (b"VALUE k 0 1048577 1\r\n", Malformed::LargeValue),
            (b"VALUE k 0 18446744073709551615 1\r\n", Malformed::LargeValue),
            (b"VALUE k 0 1 1\r\nab", Malformed::UnendedValue),
            (b"VALUE k 0 1 1\r\na\r\nSTORED\r\n", Malformed::UnendedValue),
            (b"VALUE k 0 1 1\r\na\r\nEND \r\nx\r\n", Malformed::UnendedValue),
            (b"VALUE k 0 0 1\r\n\r\nVALUE k 0 0 1\r\n\r\nVALUE k 0 0 1\r\n\r\nVALUE k 0 0 1\r\n\r\nEND\r\n", Malformed::Unasked),
            (b"HD x1\r\n", Malformed::UnknownLine),
            (b"HD t-2\r\n", Malformed::UnknownLine),
        ] {
            assert_eq!(Reply::read(&mut &bytes[..]), Err(flaw), "{}", bytes.escape_ascii());
        }
    }
}
