//! Real kazoo, as PyPI has it, in a virtual environment for each version; `kazoo_lock.py` is a
//! program on it.

use super::python;
use super::run::Job;
use super::sandbox::Sandbox;
use super::zookeeper::ZooKeeper;
use std::path::PathBuf;
use std::sync::OnceLock;

/// An installed version.
pub struct Kazoo {
    /// Its interpreter.
    pub python: PathBuf,
}

impl Kazoo {
    /// The newest version at the time when the environment was made.
    pub fn newest() -> &'static Kazoo {
        static NEWEST: OnceLock<Kazoo> = OnceLock::new();
        NEWEST.get_or_init(|| Kazoo {
            python: python::with("kazoo"),
        })
    }

    /// The one that the original lockex asks for.
    pub fn pinned() -> &'static Kazoo {
        static PINNED: OnceLock<Kazoo> = OnceLock::new();
        PINNED.get_or_init(|| match std::env::var_os("KAZOO_PINNED_PYTHON") {
            Some(python) => Kazoo {
                python: python.into(),
            }, // by hand: Python 2.7 or 3.6, with kazoo 2.2.1
            None => Kazoo {
                python: python::with("kazoo==2.2.1"),
            },
        })
    }

    /// Runs an action on the lock at `path`: see `kazoo_lock.py`.
    pub fn lock<'a>(
        &self,
        sandbox: &'a Sandbox,
        server: &ZooKeeper,
        path: &str,
        recipe: &str,
        verb: &[&str],
    ) -> Job<'a> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/kazoo_lock.py");
        Job::new(sandbox, &self.python)
            .words(&[script, &server.address(), path, recipe])
            .words(verb)
    }
}
