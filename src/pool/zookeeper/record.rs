//! What the node of a pool has: the holders, as JSON. Only servers of this program write it, so text
//! that differs from what they write is refused: to forget a holder would let a second one acquire
//! the lock.

use super::super::invalid_request;
use super::super::waiters::Run;
use crate::config::json;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// The version of the format. A server refuses any other, so a later version may change whatever it
/// wants, and each server of a site must be replaced before one writes it.
const VERSION: i64 = 1;

/// No waiter has left the queue in turn yet: sequence numbers begin with 0.
pub(super) const NONE_SERVED: i64 = -1;

/// The holders of a pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Record {
    /// New tokens are larger than this one.
    pub(super) last_token: i64,
    /// All entries of the queue up to this sequence number have been left.
    pub(super) served: i64,
    pub(super) holders: BTreeMap<Rc<str>, Holding>,
}

/// The holding of one host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Holding {
    pub(super) token: i64,
    /// The run that it belongs to; `None`: it belongs to the host.
    pub(super) run: Option<Run>,
    /// When it was acquired, in ms since 1970, by the clock of the server that granted it. It is
    /// only shown.
    pub(super) since: u64,
    /// How long a renewal lasts. It only grows. `None`: until it is released.
    pub(super) lease: Option<Duration>,
    /// Counts renewals. The lease begins again with each.
    pub(super) renewal: u64,
    /// The session of the server that wrote this renewal.
    pub(super) by: i64,
    /// The servers whose YES a client may have received, by their [ids](super::Context::server).
    /// Empty: a client has shown that it knows the token. A server that no client has heard of leaves
    /// the list; with the last one the holding ends.
    pub(super) told_by: BTreeSet<i64>,
    /// It is not confirmed again.
    pub(super) revoked: bool,
}

impl Holding {
    /// Whether requests of this run, or without a run, are those of the holder.
    pub(super) fn belongs_to(&self, run: Option<&Run>) -> bool {
        self.run.is_none() || self.run.as_ref() == run
    }

    /// Whether this is the same renewal of the same holding. It may be revoked since.
    pub(super) fn is_renewal(&self, other: &Holding) -> bool {
        (self.token, self.renewal, self.by) == (other.token, other.renewal, other.by)
    }

    /// Whether a release with this token and run means this holding.
    pub(super) fn matches_release(&self, token: Option<i64>, run: Option<&Run>) -> bool {
        match (token, run) {
            (Some(token), run) => token == self.token && (run.is_none() || self.belongs_to(run)),
            (None, Some(run)) => self.run.as_ref() == Some(run),
            (None, None) => true,
        }
    }

    /// The JSON of it, with sorted keys. A tree of values would take five times as long.
    fn text(&self, host: &str) -> String {
        let lease = self.lease.map_or("null".to_owned(), |lease| {
            u64::try_from(lease.as_millis())
                .unwrap_or(u64::MAX)
                .to_string()
        });
        let (by, host, renewal) = (self.by, Value::from(host), self.renewal);
        let revoked = if self.revoked {
            r#","revoked":true"#
        } else {
            ""
        };
        let run = self.run.as_ref().map_or(String::new(), |run| {
            format!(r#","run":{}"#, Value::from(&**run))
        });
        let told_by = if self.told_by.is_empty() {
            String::new()
        } else {
            let ids: Vec<_> = self
                .told_by
                .iter()
                .map(|id| format!(r#""{id:016x}""#))
                .collect();
            format!(r#","told_by":[{}]"#, ids.join(","))
        };
        let (since, token) = (self.since, self.token);
        format!(
            r#"{{"by":"{by:016x}","host":{host},"lease":{lease},"renewal":{renewal}{revoked}{run},"since":{since},"token":{token}{told_by}}}"#
        )
    }

    fn of(value: &Value, field: &str) -> Result<(Rc<str>, Holding), String> {
        let host = value["host"]
            .as_str()
            .filter(|host| invalid_request::check_host(host).is_ok())
            .ok_or_else(|| bad(field, "host", "the name of a host"))?;
        let by = id(&value["by"]).ok_or_else(|| bad(field, "by", "the id of a session"))?;
        let told_by = match value.get("told_by") {
            None => Some(BTreeSet::new()),
            Some(ids) => ids.as_array().and_then(|ids| ids.iter().map(id).collect()),
        };
        let lease = match value.get("lease") {
            Some(Value::Null) => None,
            _ => Some(Duration::from_millis(number(value, field, "lease")?)),
        };
        let run = match value.get("run") {
            None => None,
            Some(run) => Some(
                run.as_str()
                    .filter(|run| invalid_request::check_run(run.as_bytes()).is_ok())
                    .ok_or_else(|| bad(field, "run", "the id of a run"))?
                    .into(),
            ),
        };
        let revoked = match value.get("revoked") {
            None => false,
            Some(revoked) => revoked
                .as_bool()
                .ok_or_else(|| bad(field, "revoked", "true or false"))?,
        };
        let holding = Holding {
            token: integer(value, field, "token")?,
            run,
            since: number(value, field, "since")?,
            lease,
            renewal: number(value, field, "renewal")?,
            by,
            told_by: told_by.ok_or_else(|| bad(field, "told_by", "a list of ids"))?,
            revoked,
        };
        Ok((host.into(), holding))
    }
}

impl Record {
    /// A pool without holders, whose tokens are above this one.
    pub(super) fn new(last_token: i64) -> Record {
        Record {
            last_token,
            served: NONE_SERVED,
            holders: BTreeMap::new(),
        }
    }

    /// The data of the node.
    pub(super) fn text(&self) -> Vec<u8> {
        let holders = self.holders.iter();
        let holders: Vec<_> = holders.map(|(host, holding)| holding.text(host)).collect();
        let (holders, last_token, served) = (holders.join(","), self.last_token, self.served);
        format!(
            r#"{{"holders":[{holders}],"last_token":{last_token},"served":{served},"version":{VERSION}}}"#
        )
        .into_bytes()
    }

    /// Parses the data of the node. `Err`: what is wrong with it.
    pub(super) fn parse(text: &[u8]) -> Result<Record, String> {
        let value: Value =
            serde_json::from_slice(text).map_err(|error| format!("not JSON: {error}"))?;
        match integer(&value, "", "version")? {
            VERSION => {}
            other => {
                return Err(format!(
                    "written by another distributexd: \"version\" is {other}, not {VERSION}"
                ));
            }
        }
        let mut record = Record::new(integer(&value, "", "last_token")?);
        record.served = integer(&value, "", "served")?;
        let holders = value["holders"]
            .as_array()
            .ok_or_else(|| bad("", "holders", "a list"))?;
        for (index, holder) in holders.iter().enumerate() {
            let (host, holding) = Holding::of(holder, &format!("holders[{index}]."))?;
            if holding.token > record.last_token {
                return Err(bad("", "last_token", "the greatest of all tokens"));
            }
            if record.holders.insert(host, holding).is_some() {
                return Err(bad("", "holders", "each host once"));
            }
        }
        // Of a key that is there twice `serde_json` has forgotten the first value. No server writes
        // that, and to look for it takes longer than all else.
        if record.text() != text
            && let Err(json::Error::Duplicate { key, .. }) =
                json::parse(str::from_utf8(text).unwrap_or_default())
        {
            return Err(format!("duplicate key {key:?}"));
        }
        Ok(record)
    }

    /// This record, but with what another one has that is newer: the holders that this one does not
    /// know, and newer holdings. Of a node that was deleted, or restored from a backup.
    pub(super) fn or_newer(mut self, known: &Record) -> Record {
        self.last_token = self.last_token.max(known.last_token);
        for (host, holding) in &known.holders {
            let age = |holding: &Holding| (holding.token, holding.renewal, holding.revoked);
            let is_newer = |found: &Holding| age(found) < age(holding);
            if self.holders.get(host).is_none_or(is_newer) {
                self.holders.insert(host.clone(), holding.clone());
            }
        }
        self
    }
}

fn integer(object: &Value, field: &str, key: &str) -> Result<i64, String> {
    object[key]
        .as_i64()
        .ok_or_else(|| bad(field, key, "an integer"))
}

fn number(object: &Value, field: &str, key: &str) -> Result<u64, String> {
    object[key]
        .as_u64()
        .ok_or_else(|| bad(field, key, "a number, 0 or more"))
}

/// The id of a session.
fn id(value: &Value) -> Option<i64> {
    let id = u64::from_str_radix(value.as_str()?, 16).ok()?;
    Some(id.cast_signed())
}

fn bad(field: &str, key: &str, expected: &str) -> String {
    format!("\"{field}{key}\": expected {expected}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let mut record = Record::new(9);
        record.served = 4;
        let holding = |token, run: Option<&str>, lease, revoked| Holding {
            token,
            run: run.map(Run::from),
            since: 1_763_000_000_000,
            lease,
            renewal: 3,
            by: -1,
            told_by: run.iter().flat_map(|_| [-1, 16]).collect(),
            revoked,
        };
        let (minute, host) = (Some(Duration::from_mins(1)), "a \"quoted\" замок");
        record
            .holders
            .insert(host.into(), holding(7, Some("x"), minute, false));
        record
            .holders
            .insert("b".into(), holding(9, None, None, true));
        record
    }

    #[test]
    fn record_is_read_as_it_was_written() {
        let text = record().text();
        assert_eq!(Record::parse(&text), Ok(record()));
        let shown = |record: &Record| String::from_utf8(record.text()).unwrap();
        assert_eq!(
            shown(&Record::new(5)),
            r#"{"holders":[],"last_token":5,"served":-1,"version":1}"#
        );
        assert_eq!(
            shown(&record()),
            concat!(
                r#"{"holders":[{"by":"ffffffffffffffff","host":"a \"quoted\" замок","lease":60000,"#,
                r#""renewal":3,"run":"x","since":1763000000000,"token":7,"#,
                r#""told_by":["ffffffffffffffff","0000000000000010"]},"#,
                r#"{"by":"ffffffffffffffff","host":"b","lease":null,"#,
                r#""renewal":3,"revoked":true,"since":1763000000000,"token":9}],"#,
                r#""last_token":9,"served":4,"version":1}"#
            )
        );
        // As older servers of this version wrote it, or an operator.
        let value: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(value.to_string().into_bytes(), text);
        let pretty = serde_json::to_string_pretty(&value).unwrap();
        assert_eq!(Record::parse(pretty.as_bytes()), Ok(record()));
    }

    #[test]
    fn text_that_no_server_has_written_is_refused() {
        let text = String::from_utf8(record().text()).unwrap();
        for (from, to, why) in [
            (
                "\"version\":1",
                "\"version\":2",
                "written by another distributexd: \"version\" is 2, not 1",
            ),
            (
                "\"served\":4",
                "\"served\":\"4\"",
                "\"served\": expected an integer",
            ),
            (
                "\"last_token\":9",
                "\"last_token\":8",
                "\"last_token\": expected the greatest of all tokens",
            ),
            (
                ",\"token\":7",
                "",
                "\"holders[0].token\": expected an integer",
            ),
            (
                "\"host\":\"b\"",
                "\"host\":\"a,b\"",
                "\"holders[1].host\": expected the name of a host",
            ),
            (
                "\"run\":\"x\"",
                "\"run\":\"x y\"",
                "\"holders[0].run\": expected the id of a run",
            ),
            (
                "\"lease\":null,",
                "",
                "\"holders[1].lease\": expected a number, 0 or more",
            ),
            (
                "\"revoked\":true",
                "\"revoked\":1",
                "\"holders[1].revoked\": expected true or false",
            ),
            (
                "\"by\":\"f",
                "\"by\":\"g",
                "\"holders[0].by\": expected the id of a session",
            ),
            (
                "\"told_by\":[\"f",
                "\"told_by\":[\"g",
                "\"holders[0].told_by\": expected a list of ids",
            ),
            (
                "\"served\":4",
                "\"served\":4,\"served\":4",
                "duplicate key \"served\"",
            ),
            (
                "\"holders\":[",
                "\"holders\":[{},",
                "\"holders[0].host\": expected the name of a host",
            ),
        ] {
            assert!(text.contains(from), "{from}");
            let found = Record::parse(text.replacen(from, to, 1).as_bytes());
            assert_eq!(found, Err(why.to_owned()), "{to}");
        }
        for cut in 0..text.len() {
            assert!(Record::parse(&text.as_bytes()[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn older_record_is_completed_by_what_is_known_to_be_newer() {
        let known = record();
        let mut older = Record::new(3);
        let mut stale = known.holders["b"].clone();
        stale.renewal = 2;
        older.holders.insert("b".into(), stale);
        let newer = older.or_newer(&known);
        assert_eq!((newer.last_token, &newer.holders), (9, &known.holders));
        let mut before = known.clone();
        before.holders.get_mut("b").unwrap().revoked = false;
        assert_eq!(before.or_newer(&known), known);
    }
}
