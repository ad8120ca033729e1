//! One address of a server, with its name for messages. A list of endpoints changes when names are
//! looked up again, so a connection is requested by address, never by a position in a list.

use crate::transport::Address;

/// The address of a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Name for messages: host, port and, if the host has several addresses, the address.
    pub name: String,
    /// The address to connect to.
    pub address: Address,
}

/// The result of a look-up of host names.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// The current addresses of the servers. A host whose look-up failed keeps its previous
    /// addresses.
    pub endpoints: Vec<Endpoint>,
    /// Hosts without an address, each with the reason.
    pub unresolved: Vec<String>,
}

/// The list that replaces `old` after a look-up. New addresses come first, because the others have
/// failed. `None` if `found` is empty or unchanged.
pub fn relisted(old: &[Endpoint], mut found: Vec<Endpoint>) -> Option<Vec<Endpoint>> {
    let is_known = |endpoint: &Endpoint| old.iter().any(|known| known.address == endpoint.address);
    if found.is_empty() || found.len() == old.len() && found.iter().all(is_known) {
        return None;
    }
    found.sort_by_key(is_known); // stable: the rest keeps its shuffled order
    Some(found)
}

/// The position of an address in a list.
pub fn position(list: &[Endpoint], address: &Address) -> Option<usize> {
    list.iter()
        .position(|endpoint| endpoint.address == *address)
}

/// An endpoint for tests that never use the address: it is derived from the name's port.
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
            address: Address::Tcp(([192, 0, 2, last], port).into()),
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
    fn unchanged_or_empty_list_is_none() {
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
    fn address_is_found_under_any_name() {
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
        assert_eq!(position(&[renamed], &old.address), Some(0));
    }
}
