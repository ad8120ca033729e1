//! The form that revokes a lock. It asks for the access token of an administrator each time: another
//! site can make a browser send its stored credentials, but not what only the operator knows.

use super::html::{Name, Text};
use super::view::View;
use crate::http::percent_encode;
use crate::pool::Report;
use std::fmt::Write;

/// The form, if the view is of a single pool and names a host.
pub fn form(out: &mut String, view: &View, pools: &[Report]) {
    let (Some(pool), Some(host)) = (&view.only, &view.revoke) else {
        return;
    };
    let holds = |report: &Report| {
        let mut holders = report.holders.iter();
        report.pool == pool && holders.any(|holder| holder.host == host)
    };
    let back = View::of_pool(pool).link();
    if !pools.iter().any(holds) {
        let _ = writeln!(
            out,
            "<p class=\"note\">{} does not hold {}. <a href=\"{}\">Back</a></p>",
            Name(host),
            Name(pool),
            Text(&back)
        );
        return;
    }
    let _ = writeln!(
        out,
        "<section class=\"note\" aria-labelledby=\"revoke\">\n\
         <h2 id=\"revoke\">Revoke the lock of {} in {}?</h2>\n\
         <p>The server does not confirm the lock any more. distributex then stops its command and \
         releases the lock. A client that never renews keeps it until it releases it or its lease \
         ends. The next host gets the lock after that.</p>\n\
         <form method=\"post\" action=\"{}\">\n\
         <label>Access token of an administrator <input type=\"password\" name=\"access_token\" \
         required autocomplete=\"off\"></label>\n\
         <button>Revoke</button>\n<a href=\"{}\">Cancel</a>\n</form>\n</section>",
        Name(host),
        Name(pool),
        Text(&address(pool, host)),
        Text(&back)
    );
}

/// The address to which the form is sent. Pool and host are in the query, where a proxy has rules
/// for them.
fn address(pool: &str, host: &str) -> String {
    let mut address = b"../revoke/?pool=".to_vec();
    percent_encode(pool, b"", &mut address);
    address.extend_from_slice(b"&host=");
    percent_encode(host, b"", &mut address);
    String::from_utf8_lossy(&address).into_owned()
}
