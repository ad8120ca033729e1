//! The pools as `/status/` shows them to a browser: one HTML page that loads nothing and is complete
//! without JavaScript. With JavaScript it replaces its parts that are marked `data-live` by those of
//! a new page. Clients choose the names on it, so each text is escaped.

mod html;
mod revoke;
mod table;
pub mod view;

use self::html::{Text, time};
use self::view::{Show, Sort, View};
use super::{PoolCounters, Report, metrics};
use std::fmt::Write;
use std::time::Duration;

/// The content type of a page.
pub const CONTENT_TYPE: &str = "text/html; charset=utf-8";

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// What a browser may do with a page: use this style and this script, which are named by their
/// SHA-256, read this server again, and send a form to it. Markup that gets into the page by a name
/// has no effect.
pub const HEADERS: [(&str, &str); 5] = [
    (
        "Content-Security-Policy",
        "default-src 'none'; \
         style-src 'sha256-0I+wNudPnJx/GP/CN/ovh6/qeBkuUIBwDuVd8aDGdeU='; \
         script-src 'sha256-w0DEisMNQcUeLjITzcqe/1aMeZ3e4RHALICX0MuMgSI='; \
         connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Vary", "Accept"),
];

/// What a page shows of the server.
#[derive(Clone, Copy, Debug)]
pub struct Server<'a> {
    /// Why it grants no locks; `None`: as far as it knows, it can.
    pub failure: Option<&'a str>,
    /// Its counters.
    pub metrics: &'a [metrics::Metric],
    /// The time since 1970.
    pub now: Duration,
    /// Whether it has access tokens that revoke locks. Without them the page has no form for that, as
    /// other sites could send it, too.
    pub has_administrators: bool,
}

/// A page. `pools`: the pools by name, or why they are unknown.
pub fn text(view: &View, server: &Server, pools: Result<&[Report], &str>) -> String {
    let mut body = format!(
        "<header><h1>distributexd</h1><p id=\"tools\"><a href=\"{}\">Reload</a></p></header>\n<main>\n",
        Text(&view.link())
    );
    live(&mut body, "state", |out| {
        health(out, server.failure);
        if let Ok(pools) = pools {
            summary(out, pools);
        }
    });
    if view.only.is_none() {
        filter(&mut body, view);
    }
    if let Ok(pools) = pools
        && server.has_administrators
    {
        revoke::form(&mut body, view, pools);
    }
    live(&mut body, "pools", |out| match pools {
        Ok(pools) => table::write(out, view, server, pools),
        Err(why) => {
            let _ = writeln!(out, "<p>The holders are unknown: {}</p>", Text(why));
        }
    });
    live(&mut body, "counters", |out| {
        counters(out, pools.unwrap_or_default(), server.metrics);
    });
    body.push_str("</main>\n");
    document(&title(server.failure, pools), &body, SCRIPT)
}

/// A page with one message and a link.
pub fn notice(title: &str, message: &str, (address, link): (&str, &str)) -> String {
    let body = format!(
        "<header><h1>distributexd</h1></header>\n<main>\n<h2>{}</h2>\n<p>{}</p>\n\
         <p><a href=\"{}\">{}</a></p>\n</main>\n",
        Text(title),
        Text(message),
        Text(address),
        Text(link)
    );
    document(title, &body, "")
}

fn document(title: &str, body: &str, script: &str) -> String {
    let script = match script {
        "" => String::new(),
        script => format!("<script>{script}</script>\n"),
    };
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{} - distributexd</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}{script}\
         </body>\n</html>\n",
        Text(title)
    )
}

fn title(failure: Option<&str>, pools: Result<&[Report], &str>) -> String {
    match (failure, pools) {
        (Some(_), _) => "Cannot grant locks".to_owned(),
        (None, Err(_)) => "The holders are unknown".to_owned(),
        (None, Ok(pools)) => format!(
            "{} held, {} waiting",
            count_holders(pools),
            count_waiters(pools)
        ),
    }
}

/// A part that the script replaces.
fn live(out: &mut String, id: &str, write: impl FnOnce(&mut String)) {
    let _ = writeln!(out, "<div id=\"{id}\" data-live>");
    write(out);
    out.push_str("</div>\n");
}

fn health(out: &mut String, failure: Option<&str>) {
    let _ = match failure {
        None => writeln!(
            out,
            "<p class=\"health good\"><b>Healthy:</b> this server can grant locks.</p>"
        ),
        Some(why) => writeln!(
            out,
            "<p class=\"health bad\"><b>Cannot grant locks:</b> {}</p>",
            Text(why)
        ),
    };
}

fn count_holders(pools: &[Report]) -> usize {
    pools.iter().map(|pool| pool.holders.len()).sum()
}

fn count_waiters(pools: &[Report]) -> usize {
    pools.iter().map(|pool| pool.waiters.len()).sum()
}

/// The numbers of all pools, with links to the pools that are counted.
fn summary(out: &mut String, pools: &[Report]) {
    let of_kind = |show, sort| {
        let view = View {
            show,
            sort,
            ..View::default()
        };
        let count = pools.iter().filter(|pool| show.has(pool)).count();
        (count.to_string(), Some(view.link()))
    };
    let longest = pools.iter().filter_map(|pool| pool.waiters.first());
    let longest = longest.map(|first| first.waited).max();
    let rows = [
        ("Pools", of_kind(Show::All, Sort::Pool)),
        ("Pools with holders", of_kind(Show::Held, Sort::Held)),
        ("Pools with waiters", of_kind(Show::Awaited, Sort::Waiters)),
        ("Holders", (count_holders(pools).to_string(), None)),
        ("Waiters", (count_waiters(pools).to_string(), None)),
        (
            "Longest wait",
            (longest.map_or("none".to_owned(), time), None),
        ),
    ];
    out.push_str("<dl class=\"summary\">\n");
    for (label, (value, link)) in rows {
        let _ = match link {
            None => writeln!(out, "<div><dt>{label}</dt><dd>{value}</dd></div>"),
            Some(link) => writeln!(
                out,
                "<div><dt>{label}</dt><dd><a href=\"{}\" aria-label=\"{label}: {value}\">\
                 {value}</a></dd></div>",
                Text(&link)
            ),
        };
    }
    out.push_str("</dl>\n");
    if let Some(age) = pools.iter().filter_map(|pool| pool.age).max() {
        let age = age.as_secs_f64();
        let _ = writeln!(
            out,
            "<p>The holders are those of {age:.1} s ago. Waiters at other servers may be missing. \
             Counters are those of this server.</p>"
        );
    }
}

fn filter(out: &mut String, view: &View) {
    out.push_str("<form id=\"filter\" method=\"get\" action=\"./\" role=\"search\">\n");
    for (label, name, value) in [("Pool", "pool", &view.pool), ("Host", "host", &view.host)] {
        let _ = writeln!(
            out,
            "<label>{label} <input type=\"search\" name=\"{name}\" value=\"{}\" \
             autocomplete=\"off\"></label>",
            Text(value)
        );
    }
    out.push_str("<label>Show <select name=\"show\">");
    for (show, name, label) in Show::ALL {
        let selected = if show == view.show { " selected" } else { "" };
        let _ = write!(out, "<option value=\"{name}\"{selected}>{label}</option>");
    }
    let _ = writeln!(
        out,
        "</select></label>\n<input type=\"hidden\" name=\"sort\" value=\"{}\">\n\
         <button>Filter</button>\n<a href=\"./\">Clear</a>\n</form>",
        view.order()
    );
}

/// The metrics of the server and, added up, the counters of its pools.
fn counters(out: &mut String, pools: &[Report], server: &[metrics::Metric]) {
    let sum = |counter: fn(&PoolCounters) -> u64| {
        let all = pools.iter().map(|pool| counter(&pool.counters));
        all.sum::<u64>().to_string()
    };
    let of_pools = [
        ("Locks granted", sum(|all| all.granted)),
        ("Locks released", sum(|all| all.released)),
        ("Leases expired", sum(|all| all.expired)),
        ("Requests answered NO", sum(|all| all.refused)),
        ("Requests answered INVALID", sum(|all| all.invalid)),
        ("Grants not delivered", sum(|all| all.undelivered)),
    ];
    let of_pools = of_pools.map(|(label, value)| (label.to_owned(), value));
    let of_server = server.iter().map(|metric| {
        let name = metric.name.trim_start_matches("distributexd_");
        let value = match metric.value {
            metrics::Value::Count(count) => count.to_string(),
            metrics::Value::Time(length) => time(length),
        };
        let name = name.trim_end_matches("_seconds").replace('_', " ");
        (name, value)
    });
    out.push_str("<h2>Counters and gauges</h2>\n<dl class=\"counters\">\n");
    for (label, value) in of_pools.into_iter().chain(of_server) {
        let _ = writeln!(out, "<div><dt>{label}</dt><dd>{value}</dd></div>");
    }
    out.push_str("</dl>\n");
    let version = env!("CARGO_PKG_VERSION");
    let _ = writeln!(
        out,
        "<p>Version {version}. Programs such as curl get JSON from this address.</p>"
    );
}

#[cfg(test)]
mod tests;
