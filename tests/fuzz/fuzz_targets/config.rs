//! Whatever is in the config of a lock server: it is understood or refused, and what is understood
//! can be served.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::Path;
use zk_flock::internals::config::server::Config;

fuzz_target!(|text: &[u8]| {
    let Ok(config) = Config::parse(text, Path::new("f")) else {
        return;
    };
    for (index, pool) in config.pools.iter().enumerate() {
        assert!(
            !pool.name.is_empty()
                && pool.permits > 0
                && pool.expire.is_none_or(|expire| !expire.is_zero())
        );
        assert!(
            config.pools[..index]
                .iter()
                .all(|other| other.name != pool.name)
        );
    }
});
