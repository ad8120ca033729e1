//! Which client may do what: the decision about one request, before any pool has it.

use super::Call;
use crate::plan::access::{Access, AccessToken, Credentials, Grant, Network};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// What a request wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want<'a> {
    /// A call to a pool.
    Pool(Call, &'a str),
    /// The state of all pools.
    Read,
    /// A call to a pool that is malformed: it is reported to the log.
    Report,
}

/// The pools that a reader may see.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Scope {
    /// All.
    All,
    /// Those with these names.
    Pools(BTreeSet<String>),
}

impl Scope {
    /// Whether it has the pool.
    pub fn contains(&self, pool: &str) -> bool {
        match self {
            Scope::All => true,
            Scope::Pools(names) => names.contains(pool),
        }
    }
}

/// Why a request is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Denial {
    /// It has no access token.
    NoToken,
    /// It has an access token that the server does not know.
    UnknownToken,
    /// It has its access token where a browser sends it without being asked to.
    BasicOnlyReads,
    /// Its access token may not use the pool.
    NoRight,
    /// Its access token may use the pool, and not revoke its locks.
    NotAdministrator,
    /// It comes from another network.
    Network,
    /// A browser sends it because a page of another site wants that.
    OtherSite,
    /// It lacks the fencing token of the lock.
    NoFencingToken,
}

/// Whether the client at this address may have what it wants, and of which pools.
pub fn decide(
    access: &Access,
    want: Want,
    credentials: &Credentials,
    peer: impl Fn() -> Option<IpAddr>,
) -> Result<Scope, Denial> {
    check_network(access.networks.as_deref(), &peer)?;
    let scope = check_token(access, want, credentials)?;
    if let Want::Pool(call, pool) = want
        && let Some(rules) = access.pools.get(pool)
    {
        check_network(rules.networks.as_deref(), &peer)?;
        let has_none = matches!(
            call,
            Call::Renew { token: None } | Call::Release { token: None }
        );
        if rules.requires_fencing_token && has_none {
            return Err(Denial::NoFencingToken);
        }
    }
    Ok(scope)
}

/// Refuses a call to a pool that a page of another site makes by the browser of its reader, who may
/// be in a network from which calls are accepted.
pub fn check_site(want: Want, is_cross_site: bool) -> Result<(), Denial> {
    match want {
        Want::Pool(..) | Want::Report if is_cross_site => Err(Denial::OtherSite),
        _ => Ok(()),
    }
}

/// A client whose address is unknown is in no network.
fn check_network(
    networks: Option<&[Network]>,
    peer: impl Fn() -> Option<IpAddr>,
) -> Result<(), Denial> {
    let Some(networks) = networks else {
        return Ok(());
    };
    let is_inside = |peer| networks.iter().any(|network| network.contains(peer));
    if peer().is_some_and(is_inside) {
        Ok(())
    } else {
        Err(Denial::Network)
    }
}

fn check_token(access: &Access, want: Want, credentials: &Credentials) -> Result<Scope, Denial> {
    if !access.needs_tokens() || access.is_public(want == Want::Read) {
        return Ok(Scope::All);
    }
    let grant = match (credentials, want) {
        (Credentials::None, _) => return Err(Denial::NoToken),
        (Credentials::Basic(_), Want::Pool(..) | Want::Report) => {
            return Err(Denial::BasicOnlyReads);
        }
        (Credentials::Bearer(token) | Credentials::Basic(token), _) => find(access, token)?,
        (Credentials::Unknown, _) => return Err(Denial::UnknownToken),
    };
    let administers = |pool| grant.administers_all || grant.administers.contains(pool);
    let uses = |pool| grant.uses_all || grant.uses.contains(pool) || administers(pool);
    match want {
        Want::Pool(Call::Revoke { .. }, pool) if administers(pool) => Ok(Scope::All),
        Want::Pool(Call::Revoke { .. }, pool) if uses(pool) => Err(Denial::NotAdministrator),
        Want::Pool(Call::Revoke { .. }, _) => Err(Denial::NoRight),
        Want::Pool(_, pool) if uses(pool) => Ok(Scope::All),
        Want::Pool(..) => Err(Denial::NoRight),
        Want::Read | Want::Report => Ok(scope(grant)),
    }
}

fn find<'a>(access: &'a Access, token: &AccessToken) -> Result<&'a Grant, Denial> {
    access.grants.get(token).ok_or(Denial::UnknownToken)
}

fn scope(grant: &Grant) -> Scope {
    if grant.uses_all || grant.administers_all {
        Scope::All
    } else {
        Scope::Pools(&grant.uses | &grant.administers)
    }
}

impl Denial {
    /// The status of the reply: 401 if another access token may help, otherwise 403.
    pub fn status(self) -> u16 {
        match self {
            Denial::NoToken | Denial::UnknownToken | Denial::BasicOnlyReads => 401,
            Denial::NoRight
            | Denial::NotAdministrator
            | Denial::Network
            | Denial::OtherSite
            | Denial::NoFencingToken => 403,
        }
    }

    /// The reason in a few words, for a header and the log.
    pub fn short(self) -> &'static str {
        match self {
            Denial::NoToken => "access token missing",
            Denial::UnknownToken => "access token not valid",
            Denial::BasicOnlyReads => "access token not sent as Bearer",
            Denial::NoRight => "access token not valid for this pool",
            Denial::NotAdministrator => "access token not of an administrator",
            Denial::Network => "network not allowed",
            Denial::OtherSite => "request of another site",
            Denial::NoFencingToken => "fencing token missing",
        }
    }

    /// What the client can do about it.
    pub fn advice(self) -> &'static str {
        match self {
            Denial::NoToken | Denial::UnknownToken | Denial::BasicOnlyReads => {
                "send a valid one as \"Authorization: Bearer TOKEN\""
            }
            Denial::NoRight => "use an access token of this pool",
            Denial::NotAdministrator => "use an access token with the right to administer",
            Denial::Network => "send the request from a network in \"networks\" of the config",
            Denial::OtherSite => "use curl, or enter the address by hand",
            Denial::NoFencingToken => {
                "send \"token\" with the X-Lock-Token of the lock, as the pool has \
                 \"require_fencing_token\""
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::access::PoolAccess;

    const USE_ALL: &str = "use-all-use-all-use-all";
    const ADMINISTER_ALL: &str = "administer-all-administer-all";
    const USE_A: &str = "use-a-use-a-use-a-use-a";
    const ADMINISTER_A: &str = "administer-a-administer-a";

    fn token(text: &str) -> AccessToken {
        AccessToken::sent(text.as_bytes())
    }

    fn bearer(text: &str) -> Credentials {
        Credentials::Bearer(token(text))
    }

    fn guarded() -> Access {
        let mut access = Access::default();
        access.grant(vec![token(USE_ALL)], None, false);
        access.grant(vec![token(ADMINISTER_ALL)], None, true);
        access.grant(vec![token(USE_A)], Some("a"), false);
        access.grant(vec![token(ADMINISTER_A)], Some("a"), true);
        access
    }

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 2, 3));

    fn ask(access: &Access, want: Want, credentials: &Credentials) -> Result<Scope, Denial> {
        decide(access, want, credentials, || Some(PEER))
    }

    const CALLS: [Call; 4] = [
        Call::Get,
        Call::Wait,
        Call::Renew { token: Some(1) },
        Call::Release { token: None },
    ];

    const REVOKE: Call = Call::Revoke { token: None };

    #[test]
    fn without_tokens_and_rules_each_client_may_do_all() {
        let access = Access::default();
        let wants = CALLS.into_iter().chain([REVOKE]);
        for want in wants
            .map(|call| Want::Pool(call, "a"))
            .chain([Want::Read, Want::Report])
        {
            for credentials in [Credentials::None, Credentials::Unknown, bearer("x")] {
                let found = decide(&access, want, &credentials, || panic!("it is not needed"));
                assert_eq!(found, Ok(Scope::All), "{want:?} {credentials:?}");
            }
        }
    }

    #[test]
    fn each_token_has_its_rights_and_no_others() {
        use Denial::*;
        let all = || Ok(Scope::All);
        let only_a = || Ok(Scope::Pools(BTreeSet::from(["a".to_owned()])));
        let access = guarded();
        let basic = |text| Credentials::Basic(token(text));
        let (none, wrong) = (Credentials::None, bearer("use-all-use-all-use-alL"));
        for (credentials, use_a, use_b, revoke_a, revoke_b, read) in [
            (
                none,
                Err(NoToken),
                Err(NoToken),
                Err(NoToken),
                Err(NoToken),
                Err(NoToken),
            ),
            (
                wrong,
                Err(UnknownToken),
                Err(UnknownToken),
                Err(UnknownToken),
                Err(UnknownToken),
                Err(UnknownToken),
            ),
            (
                bearer(""),
                Err(UnknownToken),
                Err(UnknownToken),
                Err(UnknownToken),
                Err(UnknownToken),
                Err(UnknownToken),
            ),
            (
                Credentials::Unknown,
                Err(UnknownToken),
                Err(UnknownToken),
                Err(UnknownToken),
                Err(UnknownToken),
                Err(UnknownToken),
            ),
            (
                bearer(USE_ALL),
                all(),
                all(),
                Err(NotAdministrator),
                Err(NotAdministrator),
                all(),
            ),
            (bearer(ADMINISTER_ALL), all(), all(), all(), all(), all()),
            (
                bearer(USE_A),
                all(),
                Err(NoRight),
                Err(NotAdministrator),
                Err(NoRight),
                only_a(),
            ),
            (
                bearer(ADMINISTER_A),
                all(),
                Err(NoRight),
                all(),
                Err(NoRight),
                only_a(),
            ),
            (
                basic(ADMINISTER_ALL),
                Err(BasicOnlyReads),
                Err(BasicOnlyReads),
                Err(BasicOnlyReads),
                Err(BasicOnlyReads),
                all(),
            ),
            (
                basic("wrong"),
                Err(BasicOnlyReads),
                Err(BasicOnlyReads),
                Err(BasicOnlyReads),
                Err(BasicOnlyReads),
                Err(UnknownToken),
            ),
        ] {
            for call in CALLS {
                assert_eq!(
                    ask(&access, Want::Pool(call, "a"), &credentials),
                    use_a,
                    "{call:?}"
                );
                assert_eq!(
                    ask(&access, Want::Pool(call, "b"), &credentials),
                    use_b,
                    "{call:?}"
                );
            }
            let revoke = |pool| ask(&access, Want::Pool(REVOKE, pool), &credentials);
            assert_eq!((revoke("a"), revoke("b")), (revoke_a, revoke_b));
            assert_eq!(ask(&access, Want::Read, &credentials), read);
        }
    }

    #[test]
    fn page_of_another_site_makes_no_calls() {
        let calls = CALLS.into_iter().chain([REVOKE]);
        for want in calls
            .map(|call| Want::Pool(call, "a"))
            .chain([Want::Report])
        {
            assert_eq!(check_site(want, true), Err(Denial::OtherSite), "{want:?}");
            assert_eq!(check_site(want, false), Ok(()), "{want:?}");
        }
        assert_eq!(
            check_site(Want::Read, true),
            Ok(()),
            "its answer stays secret"
        );
    }

    #[test]
    fn token_of_two_pools_has_the_rights_of_both() {
        let mut access = guarded();
        access.grant(vec![token(USE_A)], Some("b"), true);
        for call in [Call::Get, REVOKE] {
            let found = ask(&access, Want::Pool(call, "b"), &bearer(USE_A));
            assert_eq!(found, Ok(Scope::All));
        }
        let scope = ask(&access, Want::Read, &bearer(USE_A)).unwrap();
        assert_eq!(
            ["a", "b", "c"].map(|pool| scope.contains(pool)),
            [true, true, false]
        );
    }

    #[test]
    fn public_status_is_read_without_a_token_and_nothing_else_is() {
        let access = Access {
            public_status: true,
            ..guarded()
        };
        for credentials in [Credentials::None, bearer("wrong"), bearer(USE_A)] {
            assert_eq!(ask(&access, Want::Read, &credentials), Ok(Scope::All));
        }
        for want in [Want::Pool(Call::Get, "a"), Want::Report] {
            assert_eq!(ask(&access, want, &Credentials::None), Err(Denial::NoToken));
        }
    }

    #[test]
    fn networks_hold_beside_tokens_for_the_server_and_for_a_pool() {
        let networks = |text: &str| Some(vec![text.parse().unwrap()]);
        let read = |access: &Access| ask(access, Want::Read, &bearer(USE_ALL));
        let get =
            |access: &Access, pool| ask(access, Want::Pool(Call::Get, pool), &bearer(USE_ALL));
        for (network, inside) in [
            ("10.1.2.0/24", true),
            ("10.1.3.0/24", false),
            ("::/0", true),
        ] {
            let expected = if inside {
                Ok(Scope::All)
            } else {
                Err(Denial::Network)
            };
            let mut access = guarded();
            access.networks = networks(network);
            assert_eq!(
                (get(&access, "a"), read(&access)),
                (expected.clone(), expected.clone())
            );
            let rules = PoolAccess {
                networks: networks(network),
                requires_fencing_token: false,
            };
            let mut access = guarded();
            access.pools.insert("a".into(), rules);
            assert_eq!(
                (get(&access, "a"), get(&access, "b")),
                (expected, Ok(Scope::All))
            );
            assert_eq!(read(&access), Ok(Scope::All));
            // A client without a token does not learn from where it may come.
            let found = ask(&access, Want::Pool(Call::Get, "a"), &Credentials::None);
            assert_eq!(found, Err(Denial::NoToken));
        }
        let access = Access {
            networks: networks("::/0"),
            ..Access::default()
        };
        let found = decide(&access, Want::Read, &Credentials::None, || None);
        assert_eq!(found, Err(Denial::Network));
    }

    #[test]
    fn pool_can_require_the_fencing_token() {
        let rules = PoolAccess {
            networks: None,
            requires_fencing_token: true,
        };
        let access = Access {
            pools: [("a".to_owned(), rules)].into(),
            ..Access::default()
        };
        for (call, found) in [
            (Call::Get, Ok(Scope::All)),
            (Call::Wait, Ok(Scope::All)),
            (REVOKE, Ok(Scope::All)),
            (Call::Renew { token: Some(1) }, Ok(Scope::All)),
            (Call::Release { token: Some(1) }, Ok(Scope::All)),
            (Call::Renew { token: None }, Err(Denial::NoFencingToken)),
            (Call::Release { token: None }, Err(Denial::NoFencingToken)),
        ] {
            assert_eq!(
                ask(&access, Want::Pool(call, "a"), &Credentials::None),
                found,
                "{call:?}"
            );
            let other = ask(&access, Want::Pool(call, "b"), &Credentials::None);
            assert_eq!(other, Ok(Scope::All), "{call:?}");
        }
    }
}
