//! Who may use a lock server: access tokens with their rights, and networks. Not to be confused
//! with fencing tokens, which number the holders of a pool.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::hint::black_box;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

/// The fewest characters of an access token. 16 random ones of 64 are 96 bits: a client that tries
/// 10,000 a second finds none.
const MIN_TOKEN: usize = 16;

/// The most characters of an access token, so that it fits into the head of a request many times,
/// and thousands of waiters can each have one in memory.
pub const MAX_TOKEN: usize = 512;

/// The bits of a file mode that let other users read or change the file. Its group may read it.
const MODE_OF_OTHERS: u32 = 0o027;

/// A secret that a client sends with a request. Its text appears in no message.
#[derive(Clone, Eq)]
pub struct AccessToken(Vec<u8>);

impl AccessToken {
    /// A token as a client has sent it, valid or not.
    pub fn sent(bytes: &[u8]) -> AccessToken {
        AccessToken(bytes.to_vec())
    }

    /// Its text, for the header of a request.
    pub fn secret(&self) -> &[u8] {
        &self.0
    }

    /// Parses a line of a file of tokens.
    fn parse(line: &[u8]) -> Result<AccessToken, TokenFlaw> {
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte);
        match line.len() {
            _ if !line.iter().all(allowed) => Err(TokenFlaw::Character),
            0..MIN_TOKEN => Err(TokenFlaw::Short),
            MIN_TOKEN..=MAX_TOKEN => Ok(AccessToken(line.to_vec())),
            _ => Err(TokenFlaw::Long),
        }
    }

    /// The tokens in the text of a file: one a line, without empty lines and comments.
    pub fn parse_file(text: &[u8]) -> Result<Vec<AccessToken>, TokenFileFlaw> {
        let lines = text.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
        let lines = (1..).zip(lines);
        let tokens = lines.filter(|(_, text)| !text.is_empty() && !text.starts_with(b"#"));
        let tokens: Vec<_> = tokens
            .map(|(line, text)| {
                AccessToken::parse(text).map_err(|flaw| TokenFileFlaw::Line { line, flaw })
            })
            .collect::<Result<_, _>>()?;
        if tokens.is_empty() {
            return Err(TokenFileFlaw::Empty);
        }
        Ok(tokens)
    }
}

/// Whether two secrets are the same, in a time that does not depend on where they differ. Their
/// lengths are no secret.
fn is_equal(one: &[u8], other: &[u8]) -> bool {
    let pairs = one.iter().zip(other);
    let difference = pairs.fold(0, |found, (one, other)| black_box(found | (one ^ other)));
    one.len() == other.len() && difference == 0
}

impl PartialEq for AccessToken {
    fn eq(&self, other: &AccessToken) -> bool {
        is_equal(&self.0, &other.0)
    }
}

/// A map of tokens hashes them with a key that no client knows, so that the time of a look-up tells
/// nothing of the tokens in it.
impl Hash for AccessToken {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("AccessToken")
    }
}

/// Why a line is not an access token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum TokenFlaw {
    Short,
    Long,
    Character,
}

/// Why a file of access tokens is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum TokenFileFlaw {
    /// Other users can read or change it: its mode.
    Mode(u32),
    /// Another user owns it: the number of that user.
    Owner(u32),
    Line {
        line: usize,
        flaw: TokenFlaw,
    },
    Empty,
}

/// Refuses a file with this mode if other users can read or change it.
pub fn check_mode(mode: u32) -> Result<(), TokenFileFlaw> {
    match mode & 0o7777 {
        mode if mode & MODE_OF_OTHERS == 0 => Ok(()),
        mode => Err(TokenFileFlaw::Mode(mode)),
    }
}

/// Refuses a file that belongs to a user other than root and the reader: its owner can read and
/// change it, whatever its mode is.
pub fn check_owner(owner: u32, reader: u32) -> Result<(), TokenFileFlaw> {
    if [0, reader].contains(&owner) {
        Ok(())
    } else {
        Err(TokenFileFlaw::Owner(owner))
    }
}

impl fmt::Display for TokenFileFlaw {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            TokenFileFlaw::Mode(mode) => write!(
                f,
                "its mode {mode:04o} lets other users read or change it (use chmod 600, or 640)"
            ),
            TokenFileFlaw::Owner(owner) => write!(
                f,
                "user {owner}, who owns it, can read and change it (use chown to give it to root, \
                 or to the user of this program)"
            ),
            TokenFileFlaw::Empty => f.write_str("it has no access token: expected one a line"),
            TokenFileFlaw::Line { line, flaw } => {
                write!(f, "line {line} is no access token: ")?;
                match flaw {
                    TokenFlaw::Short => write!(f, "it has less than {MIN_TOKEN} characters"),
                    TokenFlaw::Long => write!(f, "it has more than {MAX_TOKEN} characters"),
                    TokenFlaw::Character => {
                        f.write_str("expected letters, digits and -._~+/= without blanks")
                    }
                }
            }
        }
    }
}

/// What a client has sent to prove its rights.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Credentials {
    /// Nothing.
    #[default]
    None,
    /// `Authorization: Bearer TOKEN`.
    Bearer(AccessToken),
    /// `Authorization: Basic ...`: the token is the password. A browser sends it by itself, also
    /// with a request that another site has caused.
    Basic(AccessToken),
    /// Something else.
    Unknown,
}

/// A network: addresses whose first bits are the same. An IPv4 network is stored as the IPv6
/// addresses that IPv4 is mapped to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network {
    first: u128,
    bits: u8,
}

/// The bits that all IPv4 addresses have in common as IPv6 addresses.
const MAPPED_BITS: u8 = 96;

/// The bits that all IPv4 addresses of the loopback have in common: 127.0.0.0/8.
const LOOPBACK_BITS: u8 = 8;

fn bits_of(address: IpAddr) -> u128 {
    let address = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    Ipv6Addr::to_bits(address)
}

impl Network {
    /// Whether the address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        (bits_of(address) ^ self.first) & mask(self.bits) == 0
    }

    /// Whether all its addresses are those of this host.
    pub fn is_loopback(&self) -> bool {
        match Ipv6Addr::from_bits(self.first).to_canonical() {
            IpAddr::V4(first) => self.bits >= MAPPED_BITS + LOOPBACK_BITS && first.is_loopback(),
            IpAddr::V6(first) => self.bits == 128 && first.is_loopback(),
        }
    }
}

/// The first bits of an address.
fn mask(bits: u8) -> u128 {
    u128::MAX
        .checked_shl(u32::from(128 - bits))
        .unwrap_or_default()
}

impl FromStr for Network {
    type Err = NetworkFlaw;

    /// Parses `ADDRESS/BITS`, or an address alone.
    fn from_str(text: &str) -> Result<Network, NetworkFlaw> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NetworkFlaw::NotNetwork)?;
        let (longest, before) = match address {
            IpAddr::V4(_) => (32, MAPPED_BITS),
            IpAddr::V6(_) => (128, 0),
        };
        let bits = match length {
            None => longest,
            Some(length) => length
                .parse()
                .ok()
                .filter(|&bits| bits <= longest && length.bytes().all(|it| it.is_ascii_digit()))
                .ok_or(NetworkFlaw::NotNetwork)?,
        };
        let network = Network {
            first: bits_of(address),
            bits: before + bits,
        };
        if network.first & !mask(network.bits) == 0 {
            Ok(network)
        } else {
            Err(NetworkFlaw::BitsOfHost)
        }
    }
}

/// Why a text is not a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NetworkFlaw {
    /// It is not written as one.
    NotNetwork,
    /// The address has more bits than the network: `10.1.2.3/8`.
    BitsOfHost,
}

/// The files of tokens with each right, as the config names them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TokenFiles {
    /// To use pools.
    pub users: Vec<PathBuf>,
    /// To use and to administer pools, which is to revoke locks.
    pub administrators: Vec<PathBuf>,
}

impl TokenFiles {
    /// Whether it names any.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.administrators.is_empty()
    }
}

/// The rules about one pool.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PoolAccess {
    /// The only networks from which it may be used; `None`: any.
    pub networks: Option<Vec<Network>>,
    /// A lock is renewed and released only with its fencing token.
    pub requires_fencing_token: bool,
}

/// The rights of one access token.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Grant {
    /// It may use all pools.
    pub uses_all: bool,
    /// It may administer all pools.
    pub administers_all: bool,
    /// It may use these pools.
    pub uses: BTreeSet<String>,
    /// It may administer these pools.
    pub administers: BTreeSet<String>,
}

/// Who may use the server.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Access {
    /// The rights of each access token. If there is none, clients need no token.
    pub grants: HashMap<AccessToken, Grant>,
    /// `/status/` and `/metrics` need no token.
    pub public_status: bool,
    /// The only networks from which requests are accepted; `None`: any.
    pub networks: Option<Vec<Network>>,
    /// The rules of single pools, by name. A pool without rules is not in it.
    pub pools: HashMap<String, PoolAccess>,
}

impl Access {
    /// Keeps the rules and tokens of pools that are not in the config any more.
    pub fn keep(&mut self, before: Access, is_configured: impl Fn(&str) -> bool) {
        for (pool, rules) in before.pools {
            if !is_configured(&pool) {
                self.pools.entry(pool).or_insert(rules);
            }
        }
        if !self.needs_tokens() {
            return;
        }
        for (token, grant) in before.grants {
            let is_removed = |pool: &String| !is_configured(pool);
            let uses = grant.uses.into_iter().filter(is_removed);
            let administers = grant.administers.into_iter().filter(is_removed);
            let kept = Grant {
                uses: uses.collect(),
                administers: administers.collect(),
                ..Grant::default()
            };
            if kept != Grant::default() {
                let grant = self.grants.entry(token).or_default();
                grant.uses.extend(kept.uses);
                grant.administers.extend(kept.administers);
            }
        }
    }

    /// Whether there is an access token that revokes locks.
    pub fn has_administrators(&self) -> bool {
        let administers = |grant: &Grant| grant.administers_all || !grant.administers.is_empty();
        self.grants.values().any(administers)
    }

    /// Whether readers need no access token although other clients do. `reads`: this is a reader.
    pub fn is_public(&self, reads: bool) -> bool {
        reads && self.public_status && self.needs_tokens()
    }

    /// Whether clients need an access token.
    pub fn needs_tokens(&self) -> bool {
        !self.grants.is_empty()
    }

    /// Gives these tokens a right to a pool; `None`: to all pools.
    pub fn grant(&mut self, tokens: Vec<AccessToken>, pool: Option<&str>, administer: bool) {
        for token in tokens {
            let grant = self.grants.entry(token).or_default();
            match (pool, administer) {
                (None, false) => grant.uses_all = true,
                (None, true) => grant.administers_all = true,
                (Some(pool), false) => drop(grant.uses.insert(pool.to_owned())),
                (Some(pool), true) => drop(grant.administers.insert(pool.to_owned())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_equal_only_if_each_byte_is() {
        for (one, other, equal) in [
            ("", "", true),
            ("a", "a", true),
            ("a", "b", false),
            ("abc", "abd", false),
            ("abc", "xbc", false),
            ("abc", "ab", false),
            ("", "a", false),
            ("abc", "abcabc", false),
        ] {
            assert_eq!(
                is_equal(one.as_bytes(), other.as_bytes()),
                equal,
                "{one} {other}"
            );
        }
    }

    #[test]
    fn file_has_one_token_a_line() {
        let secrets = |text: &str| {
            let tokens = AccessToken::parse_file(text.as_bytes());
            tokens.map_err(|flaw| flaw.to_string()).map(|tokens| {
                let secret = |token: &AccessToken| String::from_utf8_lossy(token.secret()).into();
                tokens.iter().map(secret).collect::<Vec<String>>()
            })
        };
        let (one, other) = ("0123456789abcdef", "AZaz09-._~+/====");
        for text in [
            format!("{one}\n{other}"),
            format!("# old\n\n  {one} \r\n#{one}\n{other}\n\n"),
        ] {
            assert_eq!(secrets(&text), Ok(vec![one.to_owned(), other.to_owned()]));
        }
        for (text, sentence) in [
            ("", "it has no access token: expected one a line"),
            ("\n# x\n", "it has no access token: expected one a line"),
            (
                "\nshort",
                "line 2 is no access token: it has less than 16 characters",
            ),
            (
                "0123456789 abcdef",
                "line 1 is no access token: expected letters, digits and -._~+/= without blanks",
            ),
        ] {
            assert_eq!(secrets(text), Err(sentence.to_owned()), "{text:?}");
        }
        assert!(secrets(&"a".repeat(MAX_TOKEN)).is_ok());
        assert!(secrets(&"a".repeat(MAX_TOKEN + 1)).is_err());
    }

    #[test]
    fn secret_is_in_no_debug_text() {
        let secret = "0123456789abcdef";
        let token = AccessToken::sent(secret.as_bytes());
        let mut access = Access::default();
        access.grant(vec![token.clone()], None, true);
        let text = format!(
            "{access:?} {:?} {token:?}",
            Credentials::Bearer(token.clone())
        );
        assert!(!text.contains(secret) && !text.contains("48, 49"), "{text}");
    }

    #[test]
    fn file_that_other_users_can_read_or_change_is_refused() {
        for mode in [0o100_600, 0o100_400, 0o640, 0o440, 0o1600] {
            assert_eq!(check_mode(mode), Ok(()), "{mode:o}");
        }
        for mode in [0o100_644, 0o604, 0o601, 0o602, 0o660, 0o620] {
            let found = check_mode(mode);
            assert_eq!(found, Err(TokenFileFlaw::Mode(mode & 0o7777)), "{mode:o}");
        }
    }

    #[test]
    fn file_of_another_user_than_root_and_the_reader_is_refused() {
        for (owner, reader, found) in [
            (0, 0, Ok(())),
            (0, 1000, Ok(())),
            (1000, 1000, Ok(())),
            (1000, 0, Err(TokenFileFlaw::Owner(1000))),
            (1001, 1000, Err(TokenFileFlaw::Owner(1001))),
        ] {
            assert_eq!(check_owner(owner, reader), found, "{owner} {reader}");
        }
    }

    #[test]
    fn removed_pool_keeps_its_tokens_and_rules() {
        let token = |text: &str| AccessToken::sent(text.as_bytes());
        let mut before = Access::default();
        before.grant(vec![token("all")], None, true);
        before.grant(vec![token("gone")], Some("gone"), false);
        before.grant(vec![token("stays")], Some("stays"), true);
        let rules = PoolAccess {
            networks: None,
            requires_fencing_token: true,
        };
        for name in ["gone", "stays"] {
            before.pools.insert(name.into(), rules.clone());
        }
        let mut after = Access::default();
        after.grant(vec![token("new")], None, false);
        after.keep(before.clone(), |pool| pool == "stays");
        let kept: Vec<_> = ["all", "gone", "stays", "new"]
            .iter()
            .filter(|name| after.grants.contains_key(&token(name)))
            .collect();
        assert_eq!(kept, [&"gone", &"new"]);
        assert!(after.grants[&token("gone")].uses.contains("gone"));
        assert_eq!(after.pools, [("gone".to_owned(), rules)].into());
        let mut open = Access::default();
        open.keep(before, |_| false);
        assert!(!open.needs_tokens());
    }

    #[test]
    fn network_contains_addresses_with_its_first_bits() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.1.2", "11.0.0.0"),
            ("10.0.0.0/8", "::ffff:10.1.2.3", "::a00:1"),
            ("192.168.4.0/22", "192.168.7.255", "192.168.8.0"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("0.0.0.0/0", "1.2.3.4", "2001:db8::1"),
            ("::/0", "1.2.3.4", ""),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::1", "::1", "127.0.0.1"),
            ("fe80::/10", "fe80::1", "10.0.0.1"),
        ] {
            let parsed: Network = network.parse().unwrap();
            assert!(
                parsed.contains(inside.parse().unwrap()),
                "{network} {inside}"
            );
            let outside = outside.parse().ok();
            let has_outside = outside.is_some_and(|address| parsed.contains(address));
            assert!(!has_outside, "{network} {outside:?}");
        }
    }

    #[test]
    fn other_texts_are_no_networks() {
        for text in [
            "",
            "web1",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
            "10.0.0/8",
            "::/129",
            "/8",
            "10.0.0.0 /8",
            "*",
        ] {
            assert_eq!(
                text.parse::<Network>(),
                Err(NetworkFlaw::NotNetwork),
                "{text}"
            );
        }
        for text in ["10.0.0.1/8", "::1/64", "1.2.3.4/0"] {
            assert_eq!(
                text.parse::<Network>(),
                Err(NetworkFlaw::BitsOfHost),
                "{text}"
            );
        }
    }
}
