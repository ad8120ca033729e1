//! The access tokens and networks of a server's config. The config names files of tokens; to read
//! them is another step. What is not understood here is an error: the server would be open.

use super::{Fault, OnLine, mapping, wrong};
use crate::config::node::{Entry, Value, shown};
use crate::plan::Pool;
use crate::plan::access::{Access, AccessToken, Network, PoolAccess, TokenFiles};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Who may use a server, as its config has it.
#[derive(PartialEq, Eq, Debug, Default)]
pub struct AccessConfig {
    /// Tokens for all pools.
    pub tokens: TokenFiles,
    /// `/status/` and `/metrics` need no token.
    pub public_status: bool,
    /// The only networks from which requests are accepted; `None`: any.
    pub networks: Option<Vec<Network>>,
    /// The names of pools with tokens or rules of their own, and these.
    pub pools: Vec<(String, OfPool)>,
}

/// Who may use a pool.
#[derive(PartialEq, Eq, Debug, Default)]
pub struct OfPool {
    /// Tokens for this pool.
    pub tokens: TokenFiles,
    /// Its rules.
    pub rules: PoolAccess,
}

impl AccessConfig {
    /// Adds what was said about a pool.
    pub(super) fn add(&mut self, pool: &str, access: OfPool) {
        if access != OfPool::default() {
            self.pools.push((pool.to_owned(), access));
        }
    }

    /// Refuses a pool that no token may use, while other requests need one. The pools are on these
    /// lines.
    pub(super) fn check_pools(&self, pools: &[Pool], lines: &[usize]) -> Result<(), OnLine> {
        let has_tokens = |(_, it): &&(String, OfPool)| !it.tokens.is_empty();
        let with_tokens = self.pools.iter().filter(has_tokens);
        let with_tokens: BTreeSet<_> = with_tokens.map(|(pool, _)| pool).collect();
        if !self.tokens.is_empty() || with_tokens.is_empty() {
            return Ok(());
        }
        for (Pool { name, .. }, line) in pools.iter().zip(lines) {
            if !with_tokens.contains(name) {
                let pool = name.clone();
                return Err((*line, Fault::NoTokens { pool }));
            }
        }
        Ok(())
    }

    /// Reads the files of tokens.
    pub fn load<E>(
        self,
        mut read: impl FnMut(&Path) -> Result<Vec<AccessToken>, E>,
    ) -> Result<Access, E> {
        let mut access = Access {
            public_status: self.public_status,
            networks: self.networks,
            ..Access::default()
        };
        let mut add = |files: &TokenFiles, pool: Option<&str>, access: &mut Access| {
            for (files, administer) in [(&files.users, false), (&files.administrators, true)] {
                for file in files {
                    access.grant(read(file)?, pool, administer);
                }
            }
            Ok(())
        };
        add(&self.tokens, None, &mut access)?;
        for (name, OfPool { tokens, rules }) in self.pools {
            add(&tokens, Some(&name), &mut access)?;
            if rules != PoolAccess::default() {
                access.pools.insert(name, rules);
            }
        }
        Ok(access)
    }
}

const FILES: &str =
    "\"use\" or \"administer\", each with a file of access tokens or a list of files";

/// The files with each right.
pub(super) fn token_files(entry: &Entry) -> Result<TokenFiles, OnLine> {
    let mut files = TokenFiles::default();
    for right in mapping(&entry.value, FILES)? {
        let paths = texts(right).ok_or_else(|| wrong(right, "a file, or a list of files"))?;
        let paths = paths.into_iter().map(PathBuf::from).collect();
        match right.key.as_str() {
            "use" => files.users = paths,
            "administer" => files.administrators = paths,
            _ => {
                let found = shown(&right.key);
                return Err((right.line, Fault::NoMapping { what: FILES, found }));
            }
        }
    }
    if files.is_empty() {
        return Err(wrong(entry, FILES));
    }
    Ok(files)
}

pub(super) fn boolean(entry: &Entry) -> Result<bool, OnLine> {
    match entry.value.value {
        Value::Bool(value) => Ok(value),
        _ => Err(wrong(entry, "true or false")),
    }
}

/// Networks in a list, or in a text with commas between them; at least one.
pub(super) fn networks(entry: &Entry) -> Result<Vec<Network>, OnLine> {
    let expected = || {
        wrong(
            entry,
            "networks like 10.0.0.0/8: a list, or text with commas",
        )
    };
    let texts = match &entry.value.value {
        Value::Text(text) => text.split(',').collect(),
        _ => texts(entry).ok_or_else(expected)?,
    };
    let parse = |text: &str| {
        let found = shown(text);
        let fault = |flaw| (entry.line, Fault::Network { found, flaw });
        text.trim().parse().map_err(fault)
    };
    texts.into_iter().map(parse).collect()
}

/// A text, or a list of texts; none is empty. `None`: it is something else.
fn texts(entry: &Entry) -> Option<Vec<&str>> {
    fn text(value: &Value) -> Option<&str> {
        match value {
            Value::Text(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }
    match &entry.value.value {
        Value::List(items) if !items.is_empty() => {
            items.iter().map(|item| text(&item.value)).collect()
        }
        value => text(value).map(|text| vec![text]),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn parse(text: &str) -> Result<AccessConfig, String> {
        let config = Config::parse(text.as_bytes(), Path::new("f"));
        config
            .map(|config| config.access)
            .map_err(|error| error.to_string())
    }

    fn files(users: &[&str], administrators: &[&str]) -> TokenFiles {
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect();
        TokenFiles {
            users: paths(users),
            administrators: paths(administrators),
        }
    }

    #[test]
    fn keys_are_read_for_the_server_and_for_a_pool() {
        let text = "access_tokens:\n  use: u\n  administer: [a, b]\npublic_status: true\n\
                    networks: 10.0.0.0/8, fd00::/8\npools:\n- name: p\n  access_tokens:\n    \
                    use:\n    - v\n  networks: [192.0.2.7]\n  require_fencing_token: true\n- name: q\n";
        let network = |text: &str| text.parse::<Network>().unwrap();
        let rules = PoolAccess {
            networks: Some(vec![network("192.0.2.7/32")]),
            requires_fencing_token: true,
        };
        let of_p = OfPool {
            tokens: files(&["v"], &[]),
            rules,
        };
        let expected = AccessConfig {
            tokens: files(&["u"], &["a", "b"]),
            public_status: true,
            networks: Some(vec![network("10.0.0.0/8"), network("fd00::/8")]),
            pools: vec![("p".into(), of_p)],
        };
        assert_eq!(parse(text), Ok(expected));
        let flow = "{access_tokens: {use: u}, pools: [{name: p, access_tokens: {administer: a}}]}";
        let access = parse(flow).unwrap();
        assert_eq!((access.tokens, access.pools.len()), (files(&["u"], &[]), 1));
    }

    #[test]
    fn what_would_leave_the_server_open_is_an_error() {
        const POOL: &str = "pools:\n- name: p\n";
        let rights = format!("f:1: \"access_tokens\": expected {FILES}, found");
        for (text, sentence) in [
            (
                "access_tokens:\n",
                format!("f:1: expected {FILES}, found nothing"),
            ),
            (
                "access_tokens: u\n",
                format!("f:1: expected {FILES}, found \"u\""),
            ),
            ("access_tokens: {}\n", format!("{rights} keys and values")),
            (
                "access_tokens: {user: u}\n",
                format!("f:1: expected {FILES}, found \"user\""),
            ),
            (
                "access_tokens:\n  use:\n",
                "f:2: \"use\": expected a file, or a list of files, found nothing".into(),
            ),
            (
                "access_tokens: {use: []}\n",
                "f:1: \"use\": expected a file, or a list of files, found a list".into(),
            ),
            (
                "acces_tokens: {use: u}\n",
                "f:1: \"acces_tokens\": unknown key: write \"access_tokens\", or remove it".into(),
            ),
            (
                "network: 10.0.0.0/8\n",
                "f:1: \"network\": unknown key: write \"networks\", or remove it".into(),
            ),
            (
                "require_fencing_token: true\n",
                "f:1: \"require_fencing_token\": unknown key here: write it in the pools, or \
                 remove it"
                    .into(),
            ),
            (
                "public_status: 1\n",
                "f:1: \"public_status\": expected true or false, found 1".into(),
            ),
            (
                "networks: []\n",
                "f:1: \"networks\": expected networks like 10.0.0.0/8: a list, or text with \
                 commas, found a list"
                    .into(),
            ),
            (
                "networks: web1\n",
                "f:1: \"networks\": \"web1\": expected ADDRESS/BITS, like 10.0.0.0/8 or fd00::/8"
                    .into(),
            ),
            (
                "networks: [10.0.0.1/8]\n",
                "f:1: \"networks\": \"10.0.0.1/8\": the address has more bits than the network: \
                 write the network's first address"
                    .into(),
            ),
        ] {
            assert_eq!(parse(&format!("{text}{POOL}")), Err(sentence), "{text}");
        }
    }

    #[test]
    fn pool_that_no_token_may_use_is_an_error() {
        let text = "pools:\n- name: p\n- name: q\n  access_tokens: {administer: a}\n";
        assert_eq!(
            parse(text),
            Err(
                "f:2: no access token may use pool \"p\": give it \"access_tokens\", or give the \
                 server some for all pools"
                    .into()
            )
        );
        assert!(parse(&format!("{text}access_tokens: {{use: u}}\n")).is_ok());
    }

    #[test]
    fn tokens_of_files_get_the_rights_that_the_config_says() {
        let config = parse(
            "access_tokens: {use: u}\npools:\n- name: p\n  networks: ['::/0']\n  \
             access_tokens: {use: u, administer: a}\n- name: q\n",
        );
        let read = |path: &Path| -> Result<_, ()> {
            let name = path.to_str().ok_or(())?;
            Ok(vec![AccessToken::sent(name.as_bytes())])
        };
        let access = config.unwrap().load(read).unwrap();
        let grant = |name: &str| &access.grants[&AccessToken::sent(name.as_bytes())];
        let (u, a) = (grant("u"), grant("a"));
        assert_eq!(
            (u.uses_all, u.uses.contains("p"), u.administers.len()),
            (true, true, 0)
        );
        assert_eq!(
            (a.uses_all, a.administers_all, a.administers.contains("p")),
            (false, false, true)
        );
        assert_eq!((access.grants.len(), access.pools.len()), (2, 1));
        let config = parse("access_tokens: {use: u}\npools:\n- name: p\n").unwrap();
        assert_eq!(config.load(|_| Err("why")), Err("why"));
    }
}
