//! Requests that the lock server answers in a second, beside nginx, which answers the same few
//! bytes and remembers nothing.

use crate::Effort;
use crate::contestants::Contestants;
use crate::distributexd::Distributexd;
use crate::service::{Service, installed};
use crate::stopwatch::cpu;
use crate::table::{Table, three};
use common::{free_port, wait_until};
use std::fs;
use std::net::TcpStream;
use std::process::Command;

/// Connections at once.
const CONNECTIONS: [usize; 2] = [1, 50];

/// Name, port and process.
type Contender<'a> = (&'a str, u16, i32);

/// Measures all in turn, round after round.
pub fn measure(contestants: &Contestants, effort: &Effort) -> Table {
    let mut table = Table::new(&[
        "requests a second",
        "1 connection, × nginx",
        "50, × nginx",
        "CPU each, × nginx",
        "1 connection",
        "50",
        "CPU each",
    ]);
    if !installed("wrk") {
        table.missing("wrk", "apt-get install wrk");
        return table;
    }
    let state = format!("state: {}\n", contestants.sandbox.path("state").display());
    let (memcached, memcache) = memcached(contestants);
    let kinds = [
        ("distributexd", ""),
        ("distributexd with a state file", &state),
        ("distributexd on memcached", &memcache),
    ];
    let ours = kinds.map(|(name, config)| {
        (
            name,
            Distributexd::start(
                &contestants.sandbox,
                &contestants.programs,
                &["speed"],
                config,
            ),
        )
    });
    let nginx = nginx(contestants);
    let mut contenders: Vec<Contender> = Vec::new();
    contenders.extend(ours.iter().filter_map(|(name, server)| {
        server
            .as_ref()
            .ok()
            .map(|server| (*name, server.port, server.pid()))
    }));
    contenders.extend(
        nginx
            .as_ref()
            .map(|(service, port)| ("nginx", *port, service.pid)),
    );
    let mut figures = vec![[const { Vec::new() }; 3]; contenders.len()];
    for _ in 0..effort.rounds {
        for (contender, figures) in contenders.iter().zip(&mut figures) {
            for (all, figure) in figures.iter_mut().zip(load(contender, effort)) {
                all.push(figure);
            }
        }
    }
    let figures: Vec<[f64; 3]> = figures
        .into_iter()
        .map(|figures| figures.map(middle))
        .collect();
    let yardstick = figures.last().filter(|_| nginx.is_some());
    for ((name, ..), figures) in contenders.iter().zip(&figures) {
        let ratio = |index: usize| {
            yardstick.map_or("–".into(), |nginx| {
                format!("{} ×", three(figures[index] / nginx[index]))
            })
        };
        let [one, many, cpu] = figures.map(three);
        table.row(
            name,
            &[ratio(0), ratio(1), ratio(2), one, many, format!("{cpu} µs")],
        );
    }
    for (name, why) in ours
        .iter()
        .filter_map(|(name, server)| Some((name, server.as_ref().err()?)))
    {
        table.row(name, std::slice::from_ref(why));
    }
    for (name, found, remedy) in [
        ("nginx", nginx.is_some(), "apt-get install nginx-light"),
        (
            "memcached",
            memcached.is_some(),
            "apt-get install memcached",
        ),
    ] {
        if !found {
            table.missing(name, remedy);
        }
    }
    table
}

/// Requests a second at one connection and at many, and time on a processor for each of the latter,
/// in µs.
fn load((_, port, pid): &Contender, effort: &Effort) -> [f64; 3] {
    let [one, many] = CONNECTIONS;
    let one = wrk(*port, one, effort);
    let before = cpu(*pid);
    let many = wrk(*port, many, effort);
    let spent = cpu(*pid).saturating_sub(before);
    [
        one,
        many,
        spent.as_secs_f64() * 1e6 / (many * effort.load.as_secs_f64()),
    ]
}

/// Requests a second.
fn wrk(port: u16, connections: usize, effort: &Effort) -> f64 {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/requests.lua");
    let length = format!("{}s", effort.load.as_secs());
    let url = format!("http://127.0.0.1:{port}/");
    let output = Command::new("wrk")
        .args([
            "-t",
            "1",
            "-c",
            &connections.to_string(),
            "-d",
            &length,
            "-s",
            script,
            &url,
        ])
        .output()
        .expect("wrk can be started");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && !text.contains("Socket errors") && !text.contains("Non-2xx"),
        "{text}"
    );
    let rate = text.lines().find_map(|line| {
        line.trim()
            .strip_prefix("Requests/sec:")?
            .trim()
            .parse()
            .ok()
    });
    rate.unwrap_or_else(|| panic!("no rate in {text}"))
}

/// A memcached, and what a config says of it, whether it is there or not.
fn memcached(contestants: &Contestants) -> (Option<Service>, String) {
    let port = free_port();
    let words = [
        "memcached",
        "-u",
        "root",
        "-l",
        "127.0.0.1",
        "-U",
        "0",
        "-p",
        &port.to_string(),
    ];
    let service =
        installed("memcached").then(|| Service::start(&words, &contestants.sandbox.folder));
    if service.is_some() {
        wait_until("memcached to serve", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
    }
    (
        service,
        format!("backend: memcache\nmemcachehost: 127.0.0.1\nmemcacheport: {port}\n"),
    )
}

/// One worker that says YES, and its port.
fn nginx(contestants: &Contestants) -> Option<(Service, u16)> {
    if !installed("nginx") {
        return None;
    }
    let (port, path) = (free_port(), contestants.sandbox.path("nginx.conf"));
    let server = format!(
        "listen 127.0.0.1:{port}; location / {{ default_type text/html; return 200 YES; }}"
    );
    let http = format!("access_log off; keepalive_requests 1000000; server {{ {server} }}");
    let config = format!(
        "daemon off; master_process off; pid nginx.pid; error_log stderr; worker_processes 1; events {{ }} http {{ {http} }}"
    );
    fs::write(&path, config).expect("the config can be written");
    let folder = contestants
        .sandbox
        .folder
        .to_str()
        .expect("paths of tests are text");
    let service = Service::start(
        &["nginx", "-p", folder, "-c", "nginx.conf"],
        &contestants.sandbox.folder,
    );
    wait_until("nginx to serve", || {
        assert!(
            service.runs(),
            "nginx has ended: {}",
            contestants.sandbox.read("server.log")
        );
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    Some((service, port))
}

fn middle(mut rates: Vec<f64>) -> f64 {
    rates.sort_unstable_by(f64::total_cmp);
    rates[rates.len() / 2]
}
