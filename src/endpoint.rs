//! One address of a server, with the name that messages call it by. A list of them changes when
//! names are looked up again, so a connection is asked for by address, never by a position in a
//! list.

use std::net::SocketAddr;

/// Where a server may be reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// As messages call it: host, port and, where a name has several, address.
    pub name: String,
    /// Where to connect to.
    pub address: SocketAddr,
}

/// What a look-up of names has come to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// Where the servers may be reached now. A name that could not be looked up keeps the
    /// addresses that it had.
    pub endpoints: Vec<Endpoint>,
    /// Hosts without an address, each with its reason.
    pub unresolved: Vec<String>,
}

/// The list that follows `old` after a look-up: addresses that were not known before come first,
/// since the others have failed. `None`: it has none, or the same as before.
pub fn relisted(old: &[Endpoint], mut found: Vec<Endpoint>) -> Option<Vec<Endpoint>> {
    let is_known = |endpoint: &Endpoint| old.iter().any(|known| known.address == endpoint.address);
    if found.is_empty() || found.len() == old.len() && found.iter().all(is_known) {
        return None;
    }
    found.sort_by_key(is_known); // stable: otherwise they stay in their order of chance
    Some(found)
}

/// The position of an address in a list.
pub fn position(list: &[Endpoint], address: SocketAddr) -> Option<usize> {
    list.iter().position(|endpoint| endpoint.address == address)
}

/// One of a name alone, for tests that never look at its address: it is made of the name's port.
#[cfg(test)]
impl From<&str> for Endpoint {
    fn from(name: &str) -> Endpoint {
        let port = name
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse().ok())
            .unwrap_or(1);
        let last = name.bytes().fold(0u8, u8::wrapping_add);
        Endpoint {
            name: name.into(),
            address: SocketAddr::from(([192, 0, 2, last], port)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<Endpoint> {
        names.iter().map(|&name| name.into()).collect()
    }

    #[test]
    fn a_list_that_is_no_other_is_none() {
        assert_eq!(relisted(&list(&["a", "b"]), list(&["b", "a"])), None);
        assert_eq!(relisted(&list(&["a"]), vec![]), None);
    }

    #[test]
    fn unknown_addresses_come_first() {
        assert_eq!(
            relisted(&list(&["a", "b"]), list(&["b", "c", "a", "d"])),
            Some(list(&["c", "d", "b", "a"]))
        );
        assert_eq!(
            relisted(&list(&["a", "b"]), list(&["b"])),
            Some(list(&["b"]))
        );
    }

    #[test]
    fn an_address_is_itself_whatever_it_is_called() {
        let [old] = &list(&["a"])[..] else {
            unreachable!()
        };
        let renamed = Endpoint {
            name: "z".into(),
            ..old.clone()
        };
        assert_eq!(
            relisted(std::slice::from_ref(old), vec![renamed.clone()]),
            None
        );
        assert_eq!(position(&[renamed], old.address), Some(0));
    }
}
