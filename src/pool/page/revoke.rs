//! The form that revokes a lock. It asks for the access token of an administrator each time: another
//! site can make a browser send its stored credentials, but not what only the operator knows. It
//! revokes the lock that it shows: not one that the same host has acquired since.

use super::html::{Name, Text, time};
use super::view::View;
use crate::http;
use crate::pool::{Holder, Report};
use std::fmt::Write;

/// The form, if the view is of a single pool and names a host.
pub fn form(out: &mut String, view: &View, pools: &[Report]) {
    let (Some(pool), Some(host)) = (&view.only, &view.revoke) else {
        return;
    };
    let mut reports = pools.iter().filter(|report| report.pool == pool);
    let holder = reports.find_map(|report| report.holders.iter().find(|it| it.host == *host));
    match holder {
        None => note(out, pool, host, "does not hold", "."),
        Some(holder) if holder.revoked => note(
            out,
            pool,
            host,
            "holds",
            ". This lock is already revoked: the server confirms it no longer, and the slot is free \
             when the client releases it or its lease ends.",
        ),
        Some(holder) => ask(out, pool, holder),
    }
}

/// Why there is no form.
fn note(out: &mut String, pool: &str, host: &str, relation: &str, rest: &str) {
    let _ = writeln!(
        out,
        "<p class=\"note\">{} {relation} {}{rest} <a href=\"{}\">Back</a></p>",
        Name(host),
        Name(pool),
        Text(&View::of_pool(pool).link())
    );
}

fn ask(out: &mut String, pool: &str, holder: &Holder) {
    let _ = writeln!(
        out,
        "<section class=\"note\" aria-labelledby=\"revoke\">\n\
         <h2 id=\"revoke\">Revoke the lock of {} in {}{}?</h2>\n\
         <p>After that the server no longer confirms the lock. distributex then stops its command \
         and releases the lock. A client that never renews keeps it until it releases it or its \
         lease ends. The next waiter gets the lock only then.</p>\n\
         <form method=\"post\" action=\"{}\">\n\
         <label>Access token of an administrator <input type=\"password\" name=\"access_token\" \
         required autocomplete=\"off\"></label>\n\
         <button>Revoke</button>\n<a href=\"{}\">Cancel</a>\n</form>\n</section>",
        Name(&holder.host),
        Name(pool),
        facts(holder),
        Text(&address(pool, holder)),
        Text(&View::of_pool(pool).link())
    );
}

/// What tells this lock from another one of its host.
fn facts(holder: &Holder) -> String {
    let token = holder.token.map(|token| format!("fencing token {token}"));
    let held = holder.held.map(|held| format!("held for {}", time(held)));
    let facts: Vec<_> = token.into_iter().chain(held).collect();
    if facts.is_empty() {
        return String::new();
    }
    format!(" ({})", facts.join(", "))
}

/// The address to which the form is sent. Pool and host are in the query, where a proxy has rules
/// for them.
fn address(pool: &str, holder: &Holder) -> String {
    let token = holder.token.map(|token| token.to_string());
    let parameters = [("pool", pool), ("host", &holder.host)];
    let token = token.as_deref().map(|token| ("token", token));
    let mut address = b"../revoke/".to_vec();
    http::query(parameters.into_iter().chain(token), &mut address);
    String::from_utf8_lossy(&address).into_owned()
}
