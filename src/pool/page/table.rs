//! The table of pools with their holders and waiters.

use super::Server;
use super::html::{Name, Text, time};
use super::view::{POOLS_PER_PAGE, ROWS_PER_PAGE, Sort, View};
use crate::http::rfc3339;
use crate::plan::counted;
use crate::pool::{Holder, Remaining, Report, Waiter};
use std::fmt::Write;
use std::time::Duration;

/// The most holders of one pool in the table of all pools.
const HOLDERS_SHOWN: usize = 10;

/// The most waiters of one pool in the table of all pools.
const WAITERS_SHOWN: usize = 5;

/// The columns, and the orders that they stand for.
const COLUMNS: [(&str, Option<Sort>); 7] = [
    ("Pool", Some(Sort::Pool)),
    ("Slots held", None),
    ("Waiters", Some(Sort::Waiters)),
    ("Holder", Some(Sort::Holder)),
    ("Held for, since (UTC)", Some(Sort::Held)),
    ("Lease left", Some(Sort::Lease)),
    ("Fencing token", None),
];

/// The number of columns about a pool. The others are about a holder.
const COLUMNS_OF_POOL: usize = 3;

/// Writes the pools of the view.
pub fn write(out: &mut String, view: &View, server: &Server, pools: &[Report]) {
    let chosen = view.select(pools);
    let table = Table {
        view,
        now: server.now,
        revokes: server.has_administrators,
    };
    match &view.only {
        Some(name) => table.single(out, name, chosen.first().copied()),
        None => table.several(out, &chosen),
    }
}

struct Table<'a> {
    view: &'a View,
    now: Duration,
    /// Whether there is a column of links that revoke locks.
    revokes: bool,
}

/// A part of a list: `length` items from `first`.
#[derive(Clone, Copy)]
struct Part {
    first: usize,
    length: usize,
}

impl Part {
    fn of<T>(self, items: &[T]) -> &[T] {
        let first = self.first.min(items.len());
        let end = (first + self.length).min(items.len());
        &items[first..end]
    }
}

impl Table<'_> {
    fn several(&self, out: &mut String, chosen: &[&Report]) {
        let (page, pages) = self.page(chosen.len(), POOLS_PER_PAGE);
        let part = Part {
            first: page * POOLS_PER_PAGE,
            length: POOLS_PER_PAGE,
        };
        let shown = part.of(chosen);
        if shown.is_empty() {
            out.push_str("<h2>No pools</h2>\n<p>No pool matches the filter.</p>\n");
            return;
        }
        let first = part.first + 1;
        let _ = match pages {
            1 => writeln!(out, "<h2>{}</h2>", counted(shown.len(), "pool")),
            _ => writeln!(
                out,
                "<h2>Pools {first} to {} of {}</h2>",
                part.first + shown.len(),
                chosen.len()
            ),
        };
        self.head(out);
        for pool in shown {
            let holders = self.holders_shown(pool);
            let left_out = pool.holders.len() - holders.len();
            self.rows(out, pool, &holders, left_out);
            self.queue(out, pool);
            out.push_str("</tbody>\n");
        }
        out.push_str("</table>\n");
        self.turn_pages(out, page, pages);
    }

    /// The holders of a pool in the table of all pools: those that the filter names first.
    fn holders_shown<'a>(&self, pool: &'a Report) -> Vec<&'a Holder<'a>> {
        let is_named = |holder: &&Holder| self.view.names_holder(holder);
        let named = pool.holders.iter().filter(is_named);
        let others = pool.holders.iter().filter(|holder| !is_named(holder));
        named.chain(others).take(HOLDERS_SHOWN).collect()
    }

    fn single(&self, out: &mut String, name: &str, pool: Option<&Report>) {
        let _ = writeln!(
            out,
            "<p><a href=\"./\">All pools</a></p>\n<h2>Pool {}</h2>",
            Name(name)
        );
        let Some(pool) = pool else {
            out.push_str("<p>There is no such pool.</p>\n");
            return;
        };
        let longest = pool.holders.len().max(pool.waiters.len());
        let (page, pages) = self.page(longest, ROWS_PER_PAGE);
        let part = Part {
            first: page * ROWS_PER_PAGE,
            length: ROWS_PER_PAGE,
        };
        let lease = pool.expire.map_or("until released".to_owned(), time);
        let all = pool.counters;
        let _ = writeln!(
            out,
            "<p>Lease: {lease}. Granted {} times, released {}, expired {}, not delivered {}; \
             answered NO {} times, INVALID {}.</p>",
            all.granted, all.released, all.expired, all.undelivered, all.refused, all.invalid
        );
        self.head(out);
        self.rows(
            out,
            pool,
            &part.of(&pool.holders).iter().collect::<Vec<_>>(),
            0,
        );
        out.push_str("</tbody>\n</table>\n<h3>Waiters, in order</h3>\n");
        let waiters = part.of(&pool.waiters);
        if waiters.is_empty() {
            out.push_str("<p>None.</p>\n");
        } else {
            let _ = writeln!(out, "<ol class=\"waiters\" start=\"{}\">", part.first + 1);
            for waiter in waiters {
                let _ = writeln!(out, "<li>{}", queued(waiter));
            }
            out.push_str("</ol>\n");
        }
        self.turn_pages(out, page, pages);
    }

    /// The number of this page, and how many there are.
    fn page(&self, items: usize, per_page: usize) -> (usize, usize) {
        let pages = items.div_ceil(per_page).max(1);
        (self.view.page.min(pages - 1), pages)
    }

    /// Links to the pages before and after this one.
    fn turn_pages(&self, out: &mut String, page: usize, pages: usize) {
        if pages == 1 {
            return;
        }
        out.push_str("<nav class=\"pages\" aria-label=\"Pages\">");
        let mut link = |page: usize, text: &str| {
            let view = View {
                page,
                ..self.view.clone()
            };
            let _ = write!(out, "<a href=\"{}\">{text}</a> ", Text(&view.link()));
        };
        if page > 0 {
            link(page - 1, "Previous page");
        }
        if page + 1 < pages {
            link(page + 1, "Next page");
        }
        let _ = writeln!(out, "<span>Page {} of {pages}</span></nav>", page + 1);
    }

    fn head(&self, out: &mut String) {
        out.push_str("<table role=\"table\">\n<thead role=\"rowgroup\"><tr role=\"row\">");
        for (label, sort) in COLUMNS {
            out.push_str("<th role=\"columnheader\" scope=\"col\"");
            match sort.filter(|_| self.view.only.is_none()) {
                Some(sort) => self.order(out, label, sort),
                None => {
                    let _ = write!(out, ">{label}</th>");
                }
            }
        }
        if self.revokes {
            out.push_str("<th role=\"columnheader\" scope=\"col\">Revoke</th>");
        }
        out.push_str("</tr></thead>\n");
    }

    fn columns(&self) -> usize {
        COLUMNS.len() + usize::from(self.revokes)
    }

    /// The heading of a column that sorts the table.
    fn order(&self, out: &mut String, label: &str, sort: Sort) {
        let View {
            sort: current,
            reverse,
            ..
        } = *self.view;
        let (state, mark) = match (sort == current, reverse == sort.is_largest_first()) {
            (false, _) => ("", ""),
            (true, true) => (" aria-sort=\"ascending\"", " \u{25b2}"),
            (true, false) => (" aria-sort=\"descending\"", " \u{25bc}"),
        };
        let view = View {
            sort,
            reverse: sort == current && !reverse,
            page: 0,
            ..self.view.clone()
        };
        let _ = write!(
            out,
            "{state}><a href=\"{}\">{label}<span aria-hidden=\"true\">{mark}</span></a></th>",
            Text(&view.link())
        );
    }

    /// The rows of a pool: one for each of these holders. The group stays open.
    fn rows(&self, out: &mut String, pool: &Report, holders: &[&Holder], left_out: usize) {
        let rows = holders.len().max(1) + usize::from(left_out > 0);
        out.push_str("<tbody role=\"rowgroup\">\n<tr role=\"row\">");
        self.cells_of_pool(out, pool, rows);
        if holders.is_empty() {
            let _ = write!(
                out,
                "<td role=\"cell\" colspan=\"{}\" class=\"free\">free</td>",
                self.columns() - COLUMNS_OF_POOL
            );
        }
        for (index, holder) in holders.iter().enumerate() {
            if index > 0 {
                out.push_str("</tr>\n<tr role=\"row\">");
            }
            self.cells_of_holder(out, pool, holder);
        }
        if left_out > 0 {
            let _ = write!(
                out,
                "</tr>\n<tr role=\"row\"><td role=\"cell\" colspan=\"{}\">\
                 <a href=\"{}\">{} more</a></td>",
                self.columns() - COLUMNS_OF_POOL,
                Text(&View::of_pool(pool.pool).link()),
                counted(left_out, "holder")
            );
        }
        out.push_str("</tr>\n");
    }

    fn cells_of_pool(&self, out: &mut String, pool: &Report, rows: usize) {
        let _ = write!(
            out,
            "<th role=\"rowheader\" scope=\"rowgroup\" rowspan=\"{rows}\">",
        );
        let _ = match self.view.only {
            Some(_) => write!(out, "{}", Name(pool.pool)),
            None => write!(
                out,
                "<a href=\"{}\">{}</a>",
                Text(&View::of_pool(pool.pool).link()),
                Name(pool.pool)
            ),
        };
        let held = pool.holders.len();
        let slots = match pool.permits {
            0 => format!("{held} <span class=\"badge\">not in the config</span>"),
            permits => format!("{held} of {permits}"),
        };
        let _ = write!(
            out,
            "</th><td role=\"cell\" data-label=\"Slots held\" rowspan=\"{rows}\">{slots}</td>\
             <td role=\"cell\" data-label=\"Waiters\" rowspan=\"{rows}\">"
        );
        let _ = match pool.waiters.first() {
            None => write!(out, "<span class=\"free\">0</span></td>"),
            Some(first) => write!(
                out,
                "<b>{}</b> <small>for {}</small></td>",
                pool.waiters.len(),
                time(first.waited)
            ),
        };
    }

    fn cells_of_holder(&self, out: &mut String, pool: &Report, holder: &Holder) {
        let revoked = if holder.revoked {
            " <span class=\"badge\">revoked</span>"
        } else {
            ""
        };
        let _ = write!(
            out,
            "<td role=\"cell\" data-label=\"Holder\">{}{revoked}</td>\
             <td role=\"cell\" data-label=\"Held for\">",
            named(&holder.host, holder.run)
        );
        let _ = match holder.held {
            None => write!(out, "unknown"),
            Some(held) => {
                let since = rfc3339(self.now.saturating_sub(held).as_secs());
                let shown = since.replace('T', " ").replace('Z', "");
                write!(
                    out,
                    "<b>{}</b> <time datetime=\"{since}\">{shown}</time>",
                    time(held)
                )
            }
        };
        let ends = match holder.ends {
            Remaining::For(left) => time(left),
            Remaining::UntilReleased => "until released".to_owned(),
            Remaining::Unknown => "unknown".to_owned(),
        };
        let token = holder
            .token
            .map_or("unknown".to_owned(), |token| token.to_string());
        let _ = write!(
            out,
            "</td><td role=\"cell\" data-label=\"Lease left\">{ends}</td>\
             <td role=\"cell\" data-label=\"Fencing token\">{token}</td>"
        );
        if self.revokes {
            link_to_revoke(out, pool, holder);
        }
    }

    /// The row of the first waiters of a pool, or of those that the filter names.
    fn queue(&self, out: &mut String, pool: &Report) {
        let positions = (1..).zip(&pool.waiters);
        let is_named = |it: &(usize, _)| self.view.names_waiter(it.1);
        let any_named = !self.view.host.is_empty()
            && pool
                .waiters
                .iter()
                .any(|waiter| self.view.names_waiter(waiter));
        let shown: Vec<_> = positions
            .filter(|it| !any_named || is_named(it))
            .take(WAITERS_SHOWN)
            .collect();
        if shown.is_empty() {
            return;
        }
        let _ = write!(
            out,
            "<tr role=\"row\" class=\"queue\"><td role=\"cell\" colspan=\"{}\">Waiting: <ol>",
            self.columns()
        );
        for (position, waiter) in &shown {
            let _ = write!(out, "<li value=\"{position}\">{}</li>", queued(waiter));
        }
        out.push_str("</ol>");
        let left_out = pool.waiters.len() - shown.len();
        if left_out > 0 {
            let _ = write!(
                out,
                " <a href=\"{}\">{left_out} more</a>",
                Text(&View::of_pool(pool.pool).link())
            );
        }
        out.push_str("</td></tr>\n");
    }
}

/// A host with the run that holds or waits.
fn named(host: &str, run: Option<&str>) -> String {
    let run = run.map_or(String::new(), |run| {
        format!(" <small class=\"run\">run {}</small>", Name(run))
    });
    format!("<span class=\"host\">{}</span>{run}", Name(host))
}

/// A waiter and its waiting time.
fn queued(waiter: &Waiter) -> String {
    let host = named(&waiter.host, waiter.run);
    format!("{host} <small>{}</small>", time(waiter.waited))
}

/// The cell with the link to the form, unless the lock is revoked already.
fn link_to_revoke(out: &mut String, pool: &Report, holder: &Holder) {
    out.push_str("<td role=\"cell\">");
    if !holder.revoked {
        let view = View {
            revoke: Some(holder.host.to_string()),
            ..View::of_pool(pool.pool)
        };
        let _ = write!(
            out,
            "<a href=\"{}\" aria-label=\"Revoke the lock of {} in {}\">Revoke</a>",
            Text(&view.link()),
            Text(&holder.host),
            Text(pool.pool)
        );
    }
    out.push_str("</td>");
}
