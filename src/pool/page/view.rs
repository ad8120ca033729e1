//! Which part of the pools the page shows, and in which order: what the query of its address says.

use crate::http;
use crate::pool::{Holder, Remaining, Report, Waiter};
use std::cmp::Ordering;

/// The most pools on one page, so that a page is written in about a millisecond.
pub const POOLS_PER_PAGE: usize = 100;

/// The most holders and waiters that the page of a single pool shows.
pub const ROWS_PER_PAGE: usize = 1000;

/// What a page shows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct View {
    /// Only this pool, with all its waiters.
    pub only: Option<String>,
    /// Only pools whose names contain this text.
    pub pool: String,
    /// Only pools with a holder or waiter whose name contains this text.
    pub host: String,
    /// Only pools of this kind.
    pub show: Show,
    /// The order of the pools.
    pub sort: Sort,
    /// The order is reversed.
    pub reverse: bool,
    /// The number of the page, from 0.
    pub page: usize,
    /// The holder of `only` whose lock the operator wants to revoke.
    pub revoke: Option<String>,
}

/// A kind of pools.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs)]
pub enum Show {
    #[default]
    All,
    /// With a holder.
    Held,
    /// With a waiter.
    Awaited,
}

/// An order of pools. Those without the value come last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Sort {
    /// By name.
    #[default]
    Pool,
    /// The most waiters first; among equals the longest wait.
    Waiters,
    /// By the name of the first holder.
    Holder,
    /// The pool that has been held for longest first.
    Held,
    /// The lease that ends soonest first.
    Lease,
}

impl Show {
    /// Each kind with its name in a query and its label.
    pub const ALL: [(Show, &str, &str); 3] = [
        (Show::All, "all", "all"),
        (Show::Held, "held", "with holders"),
        (Show::Awaited, "waiting", "with waiters"),
    ];

    /// Its name in a query.
    fn name(self) -> &'static str {
        let found = Show::ALL.iter().find(|(show, ..)| *show == self);
        found.map_or("", |(_, name, _)| name)
    }

    /// Whether the pool is of this kind.
    pub fn has(self, report: &Report) -> bool {
        match self {
            Show::All => true,
            Show::Held => !report.holders.is_empty(),
            Show::Awaited => !report.waiters.is_empty(),
        }
    }
}

impl Sort {
    /// Each order with its name in a query.
    const ALL: [(Sort, &str); 5] = [
        (Sort::Pool, "pool"),
        (Sort::Waiters, "waiters"),
        (Sort::Holder, "holder"),
        (Sort::Held, "held"),
        (Sort::Lease, "lease"),
    ];

    /// Its name in a query.
    pub fn name(self) -> &'static str {
        let found = Sort::ALL.iter().find(|(sort, _)| *sort == self);
        found.map_or("", |(_, name)| name)
    }

    /// Whether the largest value comes first, unless the order is reversed.
    pub fn is_largest_first(self) -> bool {
        matches!(self, Sort::Waiters | Sort::Held)
    }

    fn key<'a>(self, report: &'a Report) -> Option<Key<'a>> {
        let holders = report.holders.iter();
        match self {
            Sort::Pool => Some(Key::Name(report.pool)),
            Sort::Waiters => report
                .waiters
                .first()
                .map(|first| Key::Most(report.waiters.len(), first.waited.as_millis())),
            Sort::Holder => report.holders.first().map(|first| Key::Name(&first.host)),
            Sort::Held => {
                let longest = holders.filter_map(|holder| holder.held).max()?;
                Some(Key::Most(0, longest.as_millis()))
            }
            Sort::Lease => {
                let left = holders.filter_map(|holder| match holder.ends {
                    Remaining::For(left) => Some(left.as_millis()),
                    Remaining::UntilReleased => Some(u128::MAX),
                    Remaining::Unknown => None,
                });
                left.min().map(Key::Least)
            }
        }
    }
}

/// What pools are compared by; all keys of one order are of one kind.
#[derive(PartialEq, Eq)]
enum Key<'a> {
    Name(&'a str),
    Least(u128),
    /// The largest number first, and among equals the longest time.
    Most(usize, u128),
}

impl Key<'_> {
    fn compare(&self, other: &Key) -> Ordering {
        match (self, other) {
            (Key::Name(one), Key::Name(other)) => one.cmp(other),
            (Key::Least(one), Key::Least(other)) => one.cmp(other),
            (Key::Most(one, time), Key::Most(other, other_time)) => {
                (other, other_time).cmp(&(one, time))
            }
            _ => Ordering::Equal,
        }
    }
}

impl View {
    /// Reads the parameters of a query. What it does not understand is left out.
    pub fn read(parameters: impl Iterator<Item = (Vec<u8>, Vec<u8>)>) -> View {
        let mut view = View::default();
        for (name, value) in parameters {
            let value = String::from_utf8_lossy(&value).into_owned();
            match name.as_slice() {
                b"only" => view.only = Some(value),
                b"pool" => view.pool = trimmed(&value),
                b"host" => view.host = trimmed(&value),
                b"show" => view.show = show(&value),
                b"sort" => (view.sort, view.reverse) = sort(&value),
                b"page" => view.page = value.parse::<usize>().unwrap_or(1).saturating_sub(1),
                b"revoke" => view.revoke = Some(value),
                _ => {}
            }
        }
        view
    }

    /// The address of this view, relative to that of the page.
    pub fn link(&self) -> String {
        let (order, page) = (self.order(), (self.page + 1).to_string());
        let parameters = [
            ("only", self.only.as_deref()),
            ("pool", unless(&self.pool, "")),
            ("host", unless(&self.host, "")),
            ("show", unless(self.show.name(), Show::All.name())),
            ("sort", unless(&order, Sort::Pool.name())),
            ("page", unless(&page, "1")),
            ("revoke", self.revoke.as_deref()),
        ];
        let given = parameters.into_iter();
        let given = given.filter_map(|(name, value)| Some((name, value?)));
        let mut query = Vec::new();
        http::query(given, &mut query);
        if query.is_empty() {
            return "./".to_owned();
        }
        String::from_utf8_lossy(&query).into_owned()
    }

    /// The order in a query.
    pub fn order(&self) -> String {
        let sign = if self.reverse { "-" } else { "" };
        format!("{sign}{}", self.sort.name())
    }

    /// The view of a single pool.
    pub fn of_pool(pool: &str) -> View {
        View {
            only: Some(pool.to_owned()),
            ..View::default()
        }
    }

    /// The pools that it shows on all its pages, in their order.
    pub fn select<'a>(&self, pools: &'a [Report<'a>]) -> Vec<&'a Report<'a>> {
        let chosen = pools.iter().filter(|report| self.has(report));
        if (self.sort, self.reverse) == (Sort::Pool, false) {
            return chosen.collect(); // by name as they are
        }
        let mut keyed: Vec<_> = chosen
            .map(|report| (self.sort.key(report), report))
            .collect();
        keyed.sort_by(|(one, _), (other, _)| match (one, other) {
            (Some(one), Some(other)) if self.reverse => other.compare(one),
            (Some(one), Some(other)) => one.compare(other),
            _ => one.is_none().cmp(&other.is_none()),
        });
        keyed.into_iter().map(|(_, report)| report).collect()
    }

    fn has(&self, report: &Report) -> bool {
        if let Some(only) = &self.only {
            return report.pool == only;
        }
        self.show.has(report)
            && contains(report.pool, &self.pool)
            && (self.host.is_empty()
                || report.holders.iter().any(|it| self.names_holder(it))
                || report.waiters.iter().any(|it| self.names_waiter(it)))
    }

    /// Whether the text for hosts is in the name of this holder.
    pub fn names_holder(&self, holder: &Holder) -> bool {
        contains(&holder.host, &self.host)
    }

    /// The same for a waiter.
    pub fn names_waiter(&self, waiter: &Waiter) -> bool {
        contains(&waiter.host, &self.host)
    }
}

fn show(name: &str) -> Show {
    let found = Show::ALL.iter().find(|(_, known, _)| *known == name);
    found.map_or(Show::All, |(show, ..)| *show)
}

fn sort(order: &str) -> (Sort, bool) {
    let name = order.strip_prefix('-').unwrap_or(order);
    let found = Sort::ALL.iter().find(|(_, known)| *known == name);
    found.map_or((Sort::Pool, false), |(sort, _)| (*sort, name != order))
}

/// The value, unless it is what a link without it means.
fn unless<'a>(value: &'a str, meant: &str) -> Option<&'a str> {
    (value != meant).then_some(value)
}

fn trimmed(text: &str) -> String {
    text.trim().to_owned()
}

/// Whether the name contains the text; the case of ASCII letters is ignored.
fn contains(name: &str, text: &str) -> bool {
    let mut parts = name.as_bytes().windows(text.len().max(1));
    text.is_empty() || parts.any(|part| part.eq_ignore_ascii_case(text.as_bytes()))
}
