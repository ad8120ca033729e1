//! The holders as saved to a file for the next server: JSON, with dates instead of moments, because
//! the host may reboot in between. Without a reboot, changes of the clock have no effect. A file
//! that differs in any way from what a server writes is refused: to forget a holder would let a
//! second one acquire the lock.

use super::invalid_request;
use crate::config::json;
use crate::in_file::InFile;
use crate::moment::Moment;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::time::Duration;

/// The version of the format. A later one may give the same keys another meaning.
const VERSION: i64 = 1;

/// The clocks of a host at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Clocks {
    /// The id of the current boot; `None`: the kernel has none.
    pub boot: Option<String>,
    /// In ms since 1970.
    pub date: i64,
    /// In ms since the boot.
    pub uptime: i64,
}

/// When this host booted, in ms since 1970. It converts between dates and moments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BootTime(pub(super) i64);

/// When a holding was acquired, in ms since this host booted; negative before that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AcquiredAt(i64);

impl AcquiredAt {
    /// How long ago that is.
    pub fn elapsed(self, now: Moment) -> Duration {
        Duration::from_millis(
            u64::try_from(AcquiredAt::from(now).0.saturating_sub(self.0)).unwrap_or(0),
        )
    }
}

impl From<Moment> for AcquiredAt {
    fn from(moment: Moment) -> AcquiredAt {
        AcquiredAt(i64::try_from(moment.0.as_millis()).unwrap_or(i64::MAX))
    }
}

/// All that must outlive a server.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct State {
    /// New tokens are larger than this one.
    pub last_token: i64,
    /// Ordered by pool and host.
    pub holders: Vec<SavedHolding>,
}

/// The holding of one host in one pool.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub struct SavedHolding {
    pub pool: String,
    pub host: String,
    pub token: i64,
    pub since: AcquiredAt,
    /// `Moment::NEVER`: until it is released.
    pub expires: Moment,
    /// The run that the holding belongs to; `None`: it belongs to the host.
    pub run: Option<String>,
    /// For how long it was granted or last renewed. `None`: until it is released. Zero if an
    /// earlier version wrote the file, which did not save it.
    pub lease: Option<Duration>,
    /// The holding is not confirmed again.
    pub revoked: bool,
}

/// Why a state file cannot be used.
pub type Error = InFile<Fault>;

/// What is wrong with a state file.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Fault {
    /// The text is not JSON.
    Syntax(serde_json::Error),
    /// The file has another version of the format.
    Version(i64),
    /// An object has a key twice: of two pools with one name, the holders of one would be lost.
    DuplicateKey { key: String, line: usize },
    /// A value is missing or has the wrong type.
    BadField {
        field: String,
        expected: &'static str,
    },
}

impl State {
    /// The text of the file.
    pub fn text(&self, clocks: &Clocks) -> String {
        let boot = BootTime::of(clocks);
        let mut pools = Map::new();
        for held in &self.holders {
            let holders = pools.entry(held.pool.as_str()).or_insert_with(|| json!([]));
            if let Value::Array(holders) = holders {
                holders.push(held.value(boot));
            }
        }
        let Clocks { boot, date, uptime } = clocks;
        let saved = json!({ "boot": boot, "date": date, "uptime": uptime });
        format!(
            "{:#}\n",
            json!({ "version": VERSION, "saved": saved, "last_token": self.last_token, "pools": pools })
        )
    }

    /// Parses the text of a file. `path` is only used in errors.
    pub fn parse(text: &[u8], path: &Path, clocks: &Clocks) -> Result<State, Error> {
        let state = serde_json::from_slice(text)
            .map_err(Fault::Syntax)
            .and_then(|value| check_keys(text).and(State::of(&value, clocks)));
        state.map_err(|fault| InFile::new(path, None, fault))
    }

    fn of(value: &Value, clocks: &Clocks) -> Result<State, Fault> {
        match integer(value, "", "version")? {
            VERSION => {}
            other => return Err(Fault::Version(other)),
        }
        let boot = BootTime::since(&Clocks::of(&value["saved"])?, clocks);
        let last_token = integer(value, "", "last_token")?;
        let mut state = State {
            last_token,
            holders: Vec::new(),
        };
        for (pool, holders) in value["pools"]
            .as_object()
            .ok_or_else(|| bad_field("", "pools", "an object"))?
        {
            let holders = holders
                .as_array()
                .ok_or_else(|| bad_field("pools.", pool, "a list"))?;
            for (index, holder) in holders.iter().enumerate() {
                state.holders.push(SavedHolding::of(
                    holder,
                    pool,
                    &format!("pools.{pool}[{index}]."),
                    boot,
                )?);
            }
        }
        let mut seen = BTreeSet::new();
        for SavedHolding {
            pool, host, token, ..
        } in &state.holders
        {
            if !seen.insert((pool, host)) {
                return Err(bad_field("pools.", pool, "each host once"));
            }
            if *token > last_token {
                return Err(bad_field("", "last_token", "the greatest of all tokens"));
            }
        }
        Ok(state)
    }
}

impl SavedHolding {
    fn value(&self, boot: BootTime) -> Value {
        let SavedHolding {
            host,
            token,
            since,
            expires,
            run,
            lease,
            revoked,
            ..
        } = self;
        let mut held = json!({ "host": host, "token": token, "since": boot.0.saturating_add(since.0), "expires": boot.date(*expires) });
        // Optional keys: an earlier version ignores them.
        if let Some(run) = run {
            held["run"] = run.as_str().into();
        }
        if let Some(lease) = lease.filter(|lease| !lease.is_zero()) {
            held["lease"] = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX).into();
        }
        if *revoked {
            held["revoked"] = true.into();
        }
        held
    }

    fn of(value: &Value, pool: &str, field: &str, boot: BootTime) -> Result<SavedHolding, Fault> {
        let host = value["host"]
            .as_str()
            .filter(|host| invalid_request::check_host(host).is_ok());
        let mut held = SavedHolding {
            pool: pool.to_owned(),
            host: host
                .ok_or_else(|| bad_field(field, "host", "the name of a host"))?
                .to_owned(),
            token: integer(value, field, "token")?,
            since: AcquiredAt(integer(value, field, "since")?.saturating_sub(boot.0)),
            expires: match value.get("expires") {
                Some(Value::Null) => Moment::NEVER,
                _ => boot.moment(integer(value, field, "expires")?),
            },
            run: run(value, field)?,
            lease: None,
            revoked: match value.get("revoked") {
                None => false,
                Some(revoked) => revoked
                    .as_bool()
                    .ok_or_else(|| bad_field(field, "revoked", "true or false"))?,
            },
        };
        if held.expires != Moment::NEVER {
            let lease = value.get("lease").map_or(Some(0), Value::as_u64);
            held.lease = Some(Duration::from_millis(
                lease.ok_or_else(|| bad_field(field, "lease", "milliseconds"))?,
            ));
        }
        Ok(held)
    }
}

impl Clocks {
    fn of(saved: &Value) -> Result<Clocks, Fault> {
        let (date, uptime) = (
            integer(saved, "saved.", "date")?,
            integer(saved, "saved.", "uptime")?,
        );
        Ok(Clocks {
            boot: saved["boot"].as_str().map(str::to_owned),
            date,
            uptime,
        })
    }
}

impl BootTime {
    /// From the clocks of this host.
    pub fn of(clocks: &Clocks) -> BootTime {
        BootTime(clocks.date.saturating_sub(clocks.uptime))
    }

    /// The boot time by which the dates of a file become moments of the present boot. If the host
    /// has not rebooted since, they are the moments that were saved. Otherwise only the date is
    /// left to go by, which is at least that of the save.
    fn since(saved: &Clocks, now: &Clocks) -> BootTime {
        match (&saved.boot, &now.boot) {
            (Some(then), Some(boot)) if then == boot => BootTime::of(saved),
            _ => BootTime(now.date.max(saved.date).saturating_sub(now.uptime)),
        }
    }

    /// Rounded up to ms, so that a saved holding never expires earlier than its client was told.
    fn date(self, moment: Moment) -> Option<i64> {
        let since_boot = i64::try_from(moment.0.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX);
        (moment != Moment::NEVER).then(|| self.0.saturating_add(since_boot))
    }

    /// The date of a moment in ms since 1970.
    pub(super) fn date_of(self, moment: Moment) -> u64 {
        u64::try_from(self.micros(moment) / 1000).unwrap_or(0)
    }

    /// The date of a moment in microseconds.
    pub(super) fn micros(self, moment: Moment) -> i64 {
        self.0
            .saturating_mul(1000)
            .saturating_add(i64::try_from(moment.0.as_micros()).unwrap_or(i64::MAX))
    }

    /// Dates before this boot become its beginning.
    fn moment(self, date: i64) -> Moment {
        Moment(Duration::from_millis(
            u64::try_from(date.saturating_sub(self.0)).unwrap_or(0),
        ))
    }
}

fn run(value: &Value, field: &str) -> Result<Option<String>, Fault> {
    let Some(run) = value.get("run") else {
        return Ok(None);
    };
    let run = run
        .as_str()
        .filter(|run| invalid_request::check_run(run.as_bytes()).is_ok());
    run.map(|run| Some(run.to_owned()))
        .ok_or_else(|| bad_field(field, "run", "the id of a run"))
}

/// Refuses a key that an object has twice; `serde_json` would forget the first value.
fn check_keys(text: &[u8]) -> Result<(), Fault> {
    match json::parse(str::from_utf8(text).unwrap_or_default()) {
        Err(json::Error::Duplicate { key, line, .. }) => Err(Fault::DuplicateKey { key, line }),
        _ => Ok(()),
    }
}

fn integer(object: &Value, field: &str, key: &str) -> Result<i64, Fault> {
    object[key]
        .as_i64()
        .ok_or_else(|| bad_field(field, key, "an integer"))
}

fn bad_field(field: &str, key: &str, expected: &'static str) -> Fault {
    Fault::BadField {
        field: format!("{field}{key}"),
        expected,
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Fault::Syntax(error) => write!(f, "not JSON: {error}"),
            Fault::Version(version) => write!(
                f,
                "written by another distributexd: \"version\" is {version}, not {VERSION}"
            ),
            Fault::DuplicateKey { key, line } => write!(f, "duplicate key {key:?} on line {line}"),
            Fault::BadField { field, expected } => write!(f, "{field:?}: expected {expected}"),
        }?;
        write!(
            f,
            "; with other holders than before, locks could be granted twice: restore the file, or move it away once no client holds a lock"
        )
    }
}

#[cfg(test)]
mod tests;
