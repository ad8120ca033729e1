//! Reads the pools of a lock server from its `/status/`.

use super::{Holder, Kind, Lock, Report, Waiter};
use crate::http::{Reply, authorize, get};
use crate::lock::Failure;
use crate::lock::http::access_refusal;
use crate::oneshot::http::Question;
use crate::plan::LockServer;
use crate::printable::beginning;
use serde_json::Value;
use std::time::Duration;

/// The most characters that are shown of an answer that is none of a distributexd.
const MAX_SHOWN: usize = 40;

/// What to read.
#[derive(Clone, Debug)]
pub struct PoolSurvey {
    /// The server.
    pub server: LockServer,
    /// The pool; `None`: all.
    pub pool: Option<String>,
    /// Now, in ms of real time: the server reports ages.
    pub now: i64,
}

impl Question for PoolSurvey {
    type Report = Report;

    fn request(&self) -> Vec<u8> {
        let request = get(
            &self.server.path("/status/"),
            &[],
            &self.server.header(),
            false,
        );
        authorize(request, self.server.access_token.as_ref())
    }

    fn report(&self, reply: &Reply) -> Result<Report, Failure> {
        let PoolSurvey { server, pool, now } = self;
        if let Some(why) = access_refusal(reply, server) {
            let what = format!("read the locks at {server}");
            return Err(Failure::Refused { what, why });
        }
        let body = String::from_utf8_lossy(&reply.body);
        let document = serde_json::from_str::<Value>(&body).ok();
        let pools = document.as_ref().and_then(|it| it["pools"].as_array());
        let Some(pools) = pools.filter(|_| reply.status == 200) else {
            let start = beginning(body.trim(), MAX_SHOWN);
            return Err(Failure::IncompatibleLock(format!(
                "{server} does not show its locks, it answered {} {start:?}: is it a distributexd of this program?",
                reply.status
            )));
        };
        let mut locks: Vec<_> = pools.iter().map(|pool| lock(pool, server, *now)).collect();
        locks.sort_by(|one, other| one.name.cmp(&other.name));
        match pool {
            None => Ok(Report {
                locks,
                warnings: vec![],
            }),
            Some(name) => match locks.into_iter().find(|lock| lock.name == *name) {
                Some(lock) => Ok(Report {
                    locks: vec![lock],
                    warnings: vec![],
                }),
                None => Err(Failure::Refused {
                    what: format!("find pool {name:?} at {server}"),
                    why: "add it to the config of the server".into(),
                }),
            },
        }
    }
}

/// A pool as the server describes it.
fn lock(pool: &Value, server: &LockServer, now: i64) -> Lock {
    let name = text(&pool["name"]).unwrap_or_default();
    let list = |key: &str| pool[key].as_array().cloned().unwrap_or_default();
    Lock {
        path: format!("{name}@{server}"),
        name,
        kind: Some(Kind::Pool),
        slots: pool["maxlocks"]
            .as_u64()
            .and_then(|slots| slots.try_into().ok()),
        holders: Some(list("holders").iter().map(|it| holder(it, now)).collect()),
        waiters: list("waiters")
            .iter()
            .enumerate()
            .map(|(ahead, waiter)| Waiter {
                host: text(&waiter["host"]),
                pid: None,
                since: before(&waiter["waiting"], now),
                session: None,
                position: ahead + 1,
            })
            .collect(),
        last_run: None,
    }
}

fn holder(holder: &Value, now: i64) -> Holder {
    Holder {
        host: text(&holder["host"]),
        pid: None,
        since: before(&holder["held"], now),
        token: holder["token"].as_i64(),
        session: None,
        expires: milliseconds(&holder["expires"]),
        node: None,
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// The time at which something began, by its age in seconds.
fn before(age: &Value, now: i64) -> Option<i64> {
    Some(now.saturating_sub(milliseconds(age)?))
}

fn milliseconds(seconds: &Value) -> Option<i64> {
    let time = Duration::try_from_secs_f64(seconds.as_f64()?).ok()?;
    i64::try_from(time.as_millis()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn survey(pool: Option<&str>) -> PoolSurvey {
        PoolSurvey {
            server: LockServer::of_tests(),
            pool: pool.map(Into::into),
            now: 100_000,
        }
    }

    #[test]
    fn pools_of_the_server_become_locks_with_times() {
        let document = json!({ "pools": [
            { "name": "backup", "maxlocks": 2, "expire": 60.0,
              "holders": [
                { "host": "db1", "token": 7, "held": 1.5, "expires": 58.5, "revoked": false },
                { "host": "db2", "token": null, "held": null, "expires": null, "revoked": false },
              ],
              "waiters": [{ "host": "db3", "run": "r", "waiting": 2.0 }] },
            { "name": "idle", "maxlocks": 1, "expire": null, "holders": [], "waiters": [] },
        ] });
        let reply = Reply::new(200, "application/json", document.to_string());
        let report = survey(None).report(&reply).unwrap();
        let [backup, idle] = &report.locks[..] else {
            panic!("{report:?}")
        };
        assert_eq!(
            (backup.path.as_str(), backup.slots),
            ("backup@dx:9889", Some(2))
        );
        let holders = backup.holders.as_ref().unwrap();
        assert_eq!(
            (holders[0].since, holders[0].token, holders[0].expires),
            (Some(98_500), Some(7), Some(58_500))
        );
        assert_eq!((holders[1].since, holders[1].expires), (None, None));
        assert_eq!(
            (backup.waiters[0].since, backup.waiters[0].position),
            (Some(98_000), 1)
        );
        assert_eq!(idle.is_held(), Some(false));
        assert_eq!(survey(Some("idle")).report(&reply).unwrap().locks.len(), 1);
        let missing = survey(Some("other")).report(&reply).unwrap_err();
        assert!(
            missing
                .to_string()
                .contains("find pool \"other\" at dx:9889"),
            "{missing}"
        );
    }

    #[test]
    fn a_server_without_status_is_an_error_with_its_answer() {
        let reply = Reply::new(200, "text/html", "INVALID");
        let failure = survey(None).report(&reply).unwrap_err();
        assert_eq!(
            failure.to_string(),
            "dx:9889 does not show its locks, it answered 200 \"INVALID\": is it a distributexd of this program?"
        );
    }
}
