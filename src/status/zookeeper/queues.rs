//! The queues of an application by the locks that their waiters want, so that neither many locks
//! nor many queues take time for each pair of them.

use crate::lock::zookeeper::layout::{Wanted, numbered, wanted};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// The queues.
#[derive(Debug, Default)]
pub(super) struct Queues {
    /// By the lock.
    single: BTreeMap<String, Vec<String>>,
    /// By the stem of the locks.
    several: BTreeMap<String, Vec<(RangeInclusive<u32>, String)>>,
}

impl Queues {
    /// The queues of these names.
    pub(super) fn new(queues: &[String]) -> Queues {
        let mut found = Queues::default();
        for queue in queues {
            match wanted(queue) {
                Some(Wanted::One(lock)) => {
                    found.single.entry(lock).or_default().push(queue.clone());
                }
                Some(Wanted::Numbered { stem, numbers }) => {
                    let several = found.several.entry(stem).or_default();
                    several.push((numbers, queue.clone()));
                }
                None => {}
            }
        }
        found
    }

    /// The queues in which a waiter wants this lock, alone or as one of several.
    pub(super) fn of(&self, lock: &str) -> impl Iterator<Item = &str> {
        let single = self.single.get(lock).into_iter().flatten();
        let (stem, number) = numbered(lock).unzip();
        let several = stem.and_then(|stem| self.several.get(stem)).into_iter();
        let several = several
            .flatten()
            .filter(move |(numbers, _)| number.is_some_and(|number| numbers.contains(&number)))
            .map(|(_, queue)| queue);
        single.chain(several).map(String::as_str)
    }

    /// The locks that have a queue of their own.
    pub(super) fn locks(&self) -> impl Iterator<Item = &str> {
        self.single.keys().map(String::as_str)
    }
}

/// The names of the locks to read.
#[derive(Debug)]
pub(super) struct Names {
    all: BTreeSet<String>,
    /// The numbers by stem.
    numbers: BTreeMap<String, BTreeSet<u32>>,
}

impl Names {
    /// These names.
    pub(super) fn new<'a>(names: impl Iterator<Item = &'a String>) -> Names {
        let all: BTreeSet<_> = names.cloned().collect();
        let mut numbers = BTreeMap::<_, BTreeSet<_>>::new();
        for (stem, number) in all.iter().filter_map(|name| numbered(name)) {
            numbers.entry(stem.to_owned()).or_default().insert(number);
        }
        Names { all, numbers }
    }

    /// Whether this is one of them.
    pub(super) fn has(&self, name: &str) -> bool {
        self.all.contains(name)
    }

    /// Whether a waiter in a queue of this name wants one of them.
    pub(super) fn have(&self, queue: &str) -> bool {
        match wanted(queue) {
            Some(Wanted::One(lock)) => self.has(&lock),
            Some(Wanted::Numbered { stem, numbers }) => {
                let known = self.numbers.get(&stem).filter(|_| !numbers.is_empty());
                known.is_some_and(|known| known.range(numbers).next().is_some())
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_has_a_queue_of_its_own_and_those_for_several_locks() {
        let queues = [
            "job_1",
            "job_0%..job_2",
            "job_3%..job_1",
            "job_5%..job_9",
            "a%2Fb",
        ];
        let queues = Queues::new(&queues.map(Into::into));
        let of = |lock| queues.of(lock).collect::<Vec<_>>();
        assert_eq!(of("job_1"), ["job_1", "job_0%..job_2"]);
        assert_eq!(of("job_5"), ["job_5%..job_9"]);
        assert_eq!(of("a/b"), ["a%2Fb"]);
        assert!(of("job_3").is_empty() && of("job").is_empty());
        assert!(queues.locks().eq(["a/b", "job_1"]));
    }

    #[test]
    fn a_queue_is_wanted_if_one_of_its_locks_is() {
        let names = ["job_1", "job_7", "a/b"].map(String::from);
        let names = Names::new(names.iter());
        for (queue, expected) in [
            ("job_1", true),
            ("job_2", false),
            ("a%2Fb", true),
            ("job_2%..job_9", true),
            ("job_2%..job_6", false),
            ("job_9%..job_2", false),
            ("x_1%..y_9", false),
        ] {
            assert_eq!(names.have(queue), expected, "{queue}");
        }
    }
}
