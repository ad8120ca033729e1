use super::*;
use crate::moment::Moment;
use crate::pool::{Holder, Remaining, Waiter};

const HOSTILE: &str = "<script>alert(1)</script>";

const NOW: Duration = Duration::from_secs(1_798_761_599); // 2026-12-31T23:59:59Z

fn holder(host: &str, held: u64, ends: Remaining) -> Holder<'_> {
    Holder {
        host: host.into(),
        run: None,
        token: Some(7),
        held: Some(Duration::from_secs(held)),
        ends,
        revoked: false,
    }
}

fn waiter(host: &str, seconds: u64) -> Waiter<'_> {
    Waiter {
        host: host.into(),
        run: None,
        waited: Duration::from_secs(seconds),
    }
}

fn pool<'a>(name: &'a str, holders: Vec<Holder<'a>>, waiters: Vec<Waiter<'a>>) -> Report<'a> {
    Report {
        pool: name,
        permits: 2,
        expire: None,
        age: None,
        holders,
        waiters,
        counters: PoolCounters::default(),
    }
}

fn pools() -> Vec<Report<'static>> {
    let lease = |seconds| Remaining::For(Duration::from_secs(seconds));
    vec![
        pool("archive", vec![], vec![]),
        pool(
            "backup",
            vec![
                holder("db1", 60, lease(30)),
                holder("db2", 3700, lease(200)),
            ],
            vec![waiter("web1", 90), waiter("web2", 5)],
        ),
        pool(
            "puppet",
            vec![holder("app1", 10, lease(9))],
            (0..7).map(|_| waiter("web3", 40)).collect(),
        ),
        pool(
            "report",
            vec![holder("app2", 7200, Remaining::UntilReleased)],
            vec![],
        ),
    ]
}

fn view(query: &[(&str, &str)]) -> View {
    let bytes = |text: &str| text.as_bytes().to_vec();
    View::read(
        query
            .iter()
            .map(|(name, value)| (bytes(name), bytes(value))),
    )
}

fn shown(query: &[(&str, &str)], pools: &[Report]) -> String {
    shown_with(false, query, pools)
}

fn shown_with(has_administrators: bool, query: &[(&str, &str)], pools: &[Report]) -> String {
    let server = Server {
        failure: None,
        metrics: &[],
        now: NOW,
        has_administrators,
    };
    text(&view(query), &server, Ok(pools))
}

/// The names of the pools in the table of a page, in their order.
fn rows(page: &str) -> Vec<&str> {
    let cells = page.split("scope=\"rowgroup\"").skip(1);
    let names = cells.map(|cell| cell.split("<bdi>").nth(1).unwrap());
    names
        .map(|name| name.split("</bdi>").next().unwrap())
        .collect()
}

#[test]
fn page_shows_holders_waiters_and_health() {
    let page = shown(&[], &pools());
    for part in [
        "<title>4 held, 9 waiting - distributexd</title>",
        "this server can grant locks",
        ">2 of 2</td>",
        "<b>2</b> <small>for 1 min 30 s</small>",
        "<bdi>db2</bdi></span></td>",
        "<b>1 h 1 min</b> <time datetime=\"2026-12-31T22:58:19Z\">2026-12-31 22:58:19</time>",
        ">3 min 20 s</td><td role=\"cell\" data-label=\"Fencing token\">7</td>",
        ">until released</td>",
        "class=\"free\">free</td>",
        "<li value=\"2\"><span class=\"host\"><bdi>web2</bdi></span> <small>5 s</small></li>",
        "<a href=\"?only=puppet\">2 more</a>",
        "<dt>Longest wait</dt><dd>1 min 30 s</dd>",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    assert_eq!(rows(&page), ["archive", "backup", "puppet", "report"]);
}

#[test]
fn page_says_why_no_locks_are_granted() {
    let server = Server {
        failure: Some("disk <full>"),
        metrics: &[],
        now: NOW,
        has_administrators: false,
    };
    let page = text(&View::default(), &server, Ok(&pools()));
    assert!(page.contains("<b>Cannot grant locks:</b> disk &lt;full&gt;"));
    assert!(page.contains("<title>Cannot grant locks - "));
    assert_eq!(rows(&page).len(), 4);
    let healthy = Server {
        failure: None,
        ..server
    };
    // One pool is corrupt: the others grant locks.
    let page = text(&View::default(), &healthy, Err("memcached & co."));
    assert!(page.contains("this server can grant locks") && !page.contains("Cannot grant locks"));
    assert!(page.contains("<title>The holders are unknown - "));
    assert!(page.contains("The holders are unknown: memcached &amp; co."));
    assert!(!page.contains("Pools with holders"), "they are not known");
}

#[test]
fn names_are_text_wherever_they_stand() {
    let hostile = [
        HOSTILE,
        "\"><img src=x onerror=alert(1)>",
        "' onload='x",
        "&lt;\u{202e}\u{85}",
    ];
    let harmless = shown(
        &[],
        &[pool(
            "p",
            vec![holder("h", 1, Remaining::Unknown)],
            vec![waiter("w", 1)],
        )],
    );
    let tags = |page: &str| {
        (
            page.matches('<').count(),
            page.matches('"').count(),
            page.matches('\'').count(),
        )
    };
    for name in hostile {
        let mut held = holder(name, 1, Remaining::Unknown);
        held.run = Some(name);
        let mut waits = waiter(name, 1);
        waits.run = Some(name);
        let pools = [pool(name, vec![held], vec![waits])];
        for query in [
            vec![],
            vec![("pool", name)],
            vec![("host", name)],
            vec![("only", name)],
            vec![("sort", name), ("show", name), ("page", name)],
        ] {
            let page = shown(&query, &pools);
            assert!(!page.contains(name), "{page}");
            assert!(
                !page.contains("alert(1)>") && !page.contains('\u{202e}'),
                "{page}"
            );
            assert!(!page.contains("onload='"), "{page}");
        }
        // One run more for each of the two.
        let page = shown(&[], &pools);
        let run = " <small class=\"run\">run <bdi></bdi></small>";
        let (less, quotes, single) = tags(&harmless);
        let (more, more_quotes, _) = tags(run);
        assert_eq!(
            tags(&page),
            (less + 2 * more, quotes + 2 * more_quotes, single),
            "{page}"
        );
        let notice = notice(name, name, (name, name));
        assert!(!notice.contains(name), "{notice}");
    }
    let page = shown(
        &[],
        &[pool(
            "p",
            vec![holder(HOSTILE, 1, Remaining::Unknown)],
            vec![],
        )],
    );
    assert!(page.contains("<bdi>&lt;script&gt;alert(1)&lt;/script&gt;</bdi>"));
}

#[test]
fn form_to_revoke_asks_for_the_token_of_an_administrator() {
    let query = [("only", "backup"), ("revoke", "db1")];
    let page = shown_with(true, &query, &pools());
    for part in [
        "<form method=\"post\" action=\"../revoke/?pool=backup&amp;host=db1&amp;token=7\">",
        "<bdi>db1</bdi> in <bdi>backup</bdi> (fencing token 7, held for 1 min 0 s)?</h2>",
        "<input type=\"password\" name=\"access_token\" required autocomplete=\"off\">",
        "<a href=\"?only=backup\">Cancel</a>",
        "<a href=\"?only=backup&amp;revoke=db2\" aria-label=\"Revoke the lock of db2 in backup\">",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    let (before, _) = page.split_once("<div id=\"pools\" data-live>").unwrap();
    assert!(
        before.contains("method=\"post\""),
        "a refresh leaves it alone"
    );

    let all = shown_with(true, &[], &pools());
    assert!(all.contains("?only=report&amp;revoke=app2") && !all.contains("method=\"post\""));
    let gone = [("only", "backup"), ("revoke", HOSTILE)];
    let page = shown_with(true, &gone, &pools());
    let text = "<bdi>&lt;script&gt;alert(1)&lt;/script&gt;</bdi> does not hold <bdi>backup</bdi>.";
    assert!(
        page.contains(text) && !page.contains("method=\"post\""),
        "{page}"
    );

    let mut revoked = pools();
    revoked[1].holders[0].revoked = true;
    let page = shown_with(true, &[], &revoked);
    assert!(!page.contains("revoke=db1") && page.contains("revoke=db2"));
    let page = shown_with(true, &query, &revoked);
    let text = "<bdi>db1</bdi> holds <bdi>backup</bdi>. This lock is already revoked: ";
    assert!(
        page.contains(text) && !page.contains("method=\"post\""),
        "{page}"
    );

    let mut unknown = pools();
    (unknown[1].holders[0].token, unknown[1].holders[0].held) = (None, None);
    let page = shown_with(true, &query, &unknown);
    for part in ["host=db1\">", "in <bdi>backup</bdi>?</h2>"] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
}

#[test]
fn server_without_administrators_offers_no_revocation() {
    for query in [vec![], vec![("only", "backup"), ("revoke", "db1")]] {
        let page = shown(&query, &pools());
        assert!(
            !page.contains("Revoke") && !page.contains("method=\"post\""),
            "{page}"
        );
    }
}

#[test]
fn form_leads_to_the_names_of_pool_and_host_whatever_they_are() {
    let name = "a&b=c d\"<#?%\u{e4}'+;";
    let pools = [pool(
        name,
        vec![holder(name, 1, Remaining::Unknown)],
        vec![],
    )];
    let page = shown_with(true, &[("only", name), ("revoke", name)], &pools);
    let action = page.split("action=\"../revoke/").nth(1).unwrap();
    let action = action.split('"').next().unwrap().replace("&amp;", "&");
    let request = format!("POST /revoke/{action} HTTP/1.1\r\n\r\n");
    let (request, _) = crate::http::Request::read(request.as_bytes())
        .unwrap()
        .unwrap();
    let value = Some(name.as_bytes().to_vec());
    assert_eq!(request.parameter("pool"), value);
    assert_eq!(request.parameter("host"), value);
    assert!(request.has_only(&["pool", "host", "token"]), "{action}");
}

#[test]
fn unknown_values_are_called_unknown() {
    let holder = Holder {
        host: "h".into(),
        run: Some("r"),
        token: None,
        held: None,
        ends: Remaining::Unknown,
        revoked: true,
    };
    let removed = Report {
        permits: 0,
        age: Some(Duration::from_millis(250)),
        ..pool("p", vec![holder], vec![])
    };
    let page = shown(&[], &[removed]);
    for part in [
        "1 <span class=\"badge\">not in the config</span>",
        "<small class=\"run\">run <bdi>r</bdi></small> <span class=\"badge\">revoked</span>",
        "Held for\">unknown</td>",
        "Lease left\">unknown</td>",
        "Fencing token\">unknown</td>",
        "The holders are those of 0.2 s ago. Waiters at other servers may be missing. Counters are those of this server.",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
}

#[test]
fn pools_are_sorted_with_those_without_a_value_last() {
    for (order, names) in [
        ("pool", ["archive", "backup", "puppet", "report"]),
        ("-pool", ["report", "puppet", "backup", "archive"]),
        ("waiters", ["puppet", "backup", "archive", "report"]),
        ("-waiters", ["backup", "puppet", "archive", "report"]),
        ("holder", ["puppet", "report", "backup", "archive"]),
        ("held", ["report", "backup", "puppet", "archive"]),
        ("-held", ["puppet", "backup", "report", "archive"]),
        ("lease", ["puppet", "backup", "report", "archive"]),
        ("-lease", ["report", "backup", "puppet", "archive"]),
        ("else", ["archive", "backup", "puppet", "report"]),
    ] {
        let page = shown(&[("sort", order)], &pools());
        assert_eq!(rows(&page), names, "{order}");
    }
    let page = shown(&[("sort", "held")], &pools());
    assert_eq!(page.matches("aria-sort=").count(), 1);
    let page_by_name = shown(&[], &pools());
    assert!(page_by_name.contains("aria-sort=\"ascending\"><a href=\"?sort=-pool\">Pool<"));
    assert!(
        page.contains(
            "aria-sort=\"descending\"><a href=\"?sort=-held\">Held for, since (UTC)<span"
        )
    );
}

#[test]
fn filters_choose_pools_by_name_host_and_kind() {
    for (query, names) in [
        (vec![("pool", "P")], &["backup", "puppet", "report"][..]),
        (vec![("pool", " up ")], &["backup", "puppet"]),
        (vec![("pool", "nothing")], &[]),
        (vec![("host", "DB")], &["backup"]),
        (vec![("host", "web")], &["backup", "puppet"]),
        (vec![("host", "web"), ("pool", "pup")], &["puppet"]),
        (vec![("show", "held")], &["backup", "puppet", "report"]),
        (vec![("show", "waiting")], &["backup", "puppet"]),
        (vec![("only", "backup"), ("pool", "x")], &["backup"]),
    ] {
        let page = shown(&query, &pools());
        assert_eq!(rows(&page), names, "{query:?}");
    }
    let page = shown(&[("host", "web2")], &pools());
    assert!(page.contains("<li value=\"2\">") && !page.contains("<li value=\"1\">"));
    assert!(page.contains("<a href=\"?only=backup\">1 more</a>"));
    assert!(shown(&[("only", "no")], &pools()).contains("There is no such pool."));
    let kept = shown(
        &[("host", "web"), ("sort", "held"), ("show", "held")],
        &pools(),
    );
    assert!(kept.contains("name=\"sort\" value=\"held\""));
    assert!(kept.contains("<option value=\"held\" selected>"));
    assert!(kept.contains("href=\"?host=web&amp;show=held&amp;sort=-held\""));
}

#[test]
fn link_of_a_view_leads_to_the_same_view() {
    for query in [
        vec![],
        vec![("only", "a&b=c d\"<\u{e4}")],
        vec![
            ("pool", "a"),
            ("host", "b"),
            ("show", "waiting"),
            ("sort", "-lease"),
            ("page", "3"),
        ],
    ] {
        let view = view(&query);
        let link = view.link();
        let request = format!("GET /status/{link} HTTP/1.1\r\n\r\n");
        let request = crate::http::Request::read(request.as_bytes());
        let (request, _) = request.unwrap().unwrap();
        assert_eq!(View::read(request.parameters()), view, "{link}");
    }
    assert_eq!(view(&[("page", "0")]), View::default());
    assert_eq!(view(&[("page", "-1")]), View::default());
}

#[test]
fn size_of_a_page_is_bounded_and_pages_follow_each_other() {
    let names: Vec<_> = (0..1000).map(|number| format!("pool{number:04}")).collect();
    let crowd = |name| {
        let holders = vec![holder("h", 1, Remaining::Unknown); 30];
        pool(name, holders, vec![waiter("w", 1); 20])
    };
    let many: Vec<_> = names.iter().map(|name| crowd(name)).collect();
    let page = shown(&[], &many);
    assert!(page.contains("<h2>Pools 1 to 100 of 1000</h2>"));
    assert_eq!(rows(&page).len(), 100);
    assert!(page.contains("<a href=\"?only=pool0000\">20 holders more</a>"));
    assert!(page.len() < 512 << 10, "{}", page.len());
    assert!(page.contains("<a href=\"?page=2\">Next page</a> <span>Page 1 of 10</span>"));
    let last = shown(&[("page", "10")], &many);
    assert!(last.contains("<a href=\"?page=9\">Previous page</a> <span>Page 10 of 10"));
    assert_eq!(rows(&last).last(), Some(&"pool0999"));
    assert_eq!(shown(&[("page", "99999999999999999999")], &many), page);

    let one = [pool("p", vec![], vec![waiter("w", 1); 10_000])];
    let page = shown(&[("only", "p"), ("page", "2")], &one);
    assert!(page.contains("<ol class=\"waiters\" start=\"1001\">"));
    assert_eq!(page.matches("<li>").count(), 1000);
    assert!(page.contains("Page 2 of 10"));
}

#[test]
fn counters_are_those_of_the_server_and_the_sums_of_its_pools() {
    let metric = |name, value| metrics::Metric {
        name,
        kind: metrics::Kind::Counter,
        help: "",
        value,
    };
    let mut pools = pools();
    for (pool, granted) in pools.iter_mut().zip([3, 4]) {
        pool.counters = PoolCounters {
            granted,
            last_granted: Some(Moment::default()),
            ..PoolCounters::default()
        };
    }
    let server = Server {
        failure: None,
        metrics: &[
            metric("distributexd_requests_total", metrics::Value::Count(12)),
            metric(
                "distributexd_uptime_seconds",
                metrics::Value::Time(Duration::from_secs(61)),
            ),
        ],
        now: NOW,
        has_administrators: false,
    };
    let page = text(&View::default(), &server, Ok(&pools));
    for part in [
        "<dt>Locks granted</dt><dd>7</dd>",
        "<dt>requests total</dt><dd>12</dd>",
        "<dt>uptime</dt><dd>1 min 1 s</dd>",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
}

#[test]
fn page_loads_nothing_and_its_links_are_relative() {
    let page = shown(&[("host", "w"), ("page", "2")], &pools());
    for outside in [
        "http:", "https:", "src=", "<link", "@import", "url(", " style=", " on",
    ] {
        let found = page.split(&['>', '\n'][..]).find(|part| {
            part.contains('<') && part.contains(outside)
                || !part.contains(' ') && part.contains(outside)
        });
        assert_eq!(found, None, "{outside}");
    }
    for link in page.split("href=\"").skip(1) {
        assert!(link.starts_with("./\"") || link.starts_with('?'), "{link}");
    }
    for action in page.split("action=\"").skip(1) {
        assert!(action.starts_with("./\""), "{action}");
    }
    assert!(STYLE.len() + SCRIPT.len() < 12 << 10);
}

#[test]
fn policy_allows_this_style_and_script_and_nothing_from_elsewhere() {
    let (_, policy) = HEADERS[0];
    for (directive, text) in [("style-src", STYLE), ("script-src", SCRIPT)] {
        let expected = format!(
            "{directive} 'sha256-{}'; ",
            base64(&sha256(text.as_bytes()))
        );
        assert!(policy.contains(&expected), "{expected} is not in {policy}");
        assert!(!text.contains("</"), "it would end its element");
    }
    for directive in [
        "default-src 'none'; ",
        "frame-ancestors 'none'; ",
        "base-uri 'none'",
    ] {
        assert!(policy.contains(directive), "{directive}");
    }
    let page = shown(&[], &pools());
    assert!(page.contains(&format!("<style>{STYLE}</style>")));
    assert!(page.contains(&format!("<script>{SCRIPT}</script>")));
    assert_eq!(
        (
            page.matches("<style").count(),
            page.matches("<script").count()
        ),
        (1, 1)
    );
}

#[test]
fn sha256_is_that_of_the_standard() {
    // FIPS 180-2, appendix B.
    for (text, hash) in [
        ("abc", "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="),
        (
            "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "JI1qYdIGOLjlwCaTDD5gOaM85Flk/yFn9uzt1BnbBsE=",
        ),
    ] {
        assert_eq!(base64(&sha256(text.as_bytes())), hash);
    }
}

/// The first 32 bits of the fractional parts of a root of the first primes.
fn constants<const COUNT: usize>(root: fn(f64) -> f64) -> [u32; COUNT] {
    let is_prime = |number: &u32| (2..*number).all(|divisor| !number.is_multiple_of(divisor));
    let mut primes = (2..).filter(is_prime);
    [(); COUNT].map(|()| {
        let fraction = root(f64::from(primes.next().unwrap())).fract();
        format!("{:.0}", (fraction * 2f64.powi(32)).floor())
            .parse()
            .unwrap()
    })
}

#[allow(
    clippy::many_single_char_names,
    reason = "they are those of the standard"
)]
fn sha256(text: &[u8]) -> Vec<u8> {
    let mut hash: [u32; 8] = constants(f64::sqrt);
    let rounds: [u32; 64] = constants(f64::cbrt);
    let mut message = text.to_vec();
    message.push(0x80);
    message.resize((message.len() + 8).next_multiple_of(64) - 8, 0);
    message.extend_from_slice(&(8 * text.len() as u64).to_be_bytes());
    for block in message.chunks(64) {
        let mut words: Vec<u32> = block
            .chunks(4)
            .map(|bytes| u32::from_be_bytes(bytes.try_into().unwrap()))
            .collect();
        for index in 16..64 {
            let (early, late) = (words[index - 15], words[index - 2]);
            let early = early.rotate_right(7) ^ early.rotate_right(18) ^ (early >> 3);
            let late = late.rotate_right(17) ^ late.rotate_right(19) ^ (late >> 10);
            let sum = words[index - 16].wrapping_add(early);
            words.push(sum.wrapping_add(words[index - 7]).wrapping_add(late));
        }
        let mut state = hash;
        for (word, constant) in words.iter().zip(rounds) {
            let [a, b, c, d, e, f, g, h] = state;
            let mixed = (e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25))
                .wrapping_add((e & f) ^ (!e & g));
            let first = h
                .wrapping_add(mixed)
                .wrapping_add(constant)
                .wrapping_add(*word);
            let second = (a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22))
                .wrapping_add((a & b) ^ (a & c) ^ (b & c));
            state = [
                first.wrapping_add(second),
                a,
                b,
                c,
                d.wrapping_add(first),
                e,
                f,
                g,
            ];
        }
        for (sum, part) in hash.iter_mut().zip(state) {
            *sum = sum.wrapping_add(part);
        }
    }
    hash.into_iter().flat_map(u32::to_be_bytes).collect()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let padded = [
            chunk[0],
            *chunk.get(1).unwrap_or(&0),
            *chunk.get(2).unwrap_or(&0),
        ];
        let bits = padded
            .iter()
            .fold(0usize, |bits, &byte| bits << 8 | usize::from(byte));
        for place in 0..4 {
            let digit = bits >> (18 - 6 * place) & 63;
            text.push(if place > chunk.len() {
                '='
            } else {
                char::from(DIGITS[digit])
            });
        }
    }
    text
}
