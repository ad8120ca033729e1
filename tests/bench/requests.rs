//! Requests that the lock server answers in a second, beside nginx, which answers the same few bytes and remembers nothing.

use crate::Effort;
use crate::common::{free_port, wait_until};
use crate::distributexd::Distributexd;
use crate::field::Field;
use crate::service::{Service, installed};
use crate::table::{Table, three};
use std::fs;
use std::net::TcpStream;
use std::process::Command;

/// Connections at once.
const CONNECTIONS: [usize; 2] = [1, 50];

/// Measures all in turn, round after round.
pub fn measure(field: &Field, effort: &Effort) -> Table {
    let mut table = Table::new(&["requests a second", "1 connection, × nginx", "50, × nginx", "1 connection", "50"]);
    if !installed("wrk") {
        table.missing("wrk", "apt-get install wrk");
        return table;
    }
    let pool = ["speed".to_owned()];
    let state = format!("state: {}\n", field.sandbox.path("state").display());
    let [plain, saving] = ["", &state].map(|config| Distributexd::start(&field.sandbox, &field.programs, &pool, config));
    let nginx = nginx(field);
    let mut contenders = vec![("distributexd", plain.port), ("distributexd with a state file", saving.port)];
    contenders.extend(nginx.as_ref().map(|(_, port)| ("nginx", *port)));
    let mut rates = vec![[Vec::new(), Vec::new()]; contenders.len()];
    for _ in 0..effort.rounds {
        for ((_, port), rates) in contenders.iter().zip(&mut rates) {
            for (connections, rates) in CONNECTIONS.iter().zip(rates) {
                rates.push(wrk(*port, *connections, effort));
            }
        }
    }
    let rates: Vec<[f64; 2]> = rates.into_iter().map(|rates| rates.map(middle)).collect();
    let yardstick = rates.last().filter(|_| nginx.is_some());
    for ((name, _), rates) in contenders.iter().zip(&rates) {
        let ratio = |index: usize| yardstick.map_or("–".into(), |best| format!("{} ×", three(rates[index] / best[index])));
        table.row(name, &[ratio(0), ratio(1), three(rates[0]), three(rates[1])]);
    }
    if nginx.is_none() {
        table.missing("nginx", "apt-get install nginx-light");
    }
    table
}

/// Requests a second.
fn wrk(port: u16, connections: usize, effort: &Effort) -> f64 {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/requests.lua");
    let length = format!("{}s", effort.load.as_secs());
    let url = format!("http://127.0.0.1:{port}/");
    let output = Command::new("wrk")
        .args(["-t", "1", "-c", &connections.to_string(), "-d", &length, "-s", script, &url])
        .output()
        .expect("wrk can be started");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && !text.contains("Socket errors") && !text.contains("Non-2xx"), "{text}");
    let rate = text.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:")?.trim().parse().ok());
    rate.unwrap_or_else(|| panic!("no rate in {text}"))
}

/// One worker that says YES, and its port.
fn nginx(field: &Field) -> Option<(Service, u16)> {
    if !installed("nginx") {
        return None;
    }
    let (port, path) = (free_port(), field.sandbox.path("nginx.conf"));
    let server = format!("listen 127.0.0.1:{port}; location / {{ default_type text/html; return 200 YES; }}");
    let http = format!("access_log off; keepalive_requests 1000000; server {{ {server} }}");
    let config =
        format!("daemon off; master_process off; pid nginx.pid; error_log stderr; worker_processes 1; events {{ }} http {{ {http} }}");
    fs::write(&path, config).expect("the config can be written");
    let folder = field.sandbox.folder.to_str().expect("paths of tests are text");
    let service = Service::start(&["nginx", "-p", folder, "-c", "nginx.conf"], &field.sandbox.folder);
    wait_until("nginx to serve", || {
        assert!(service.runs(), "nginx has ended: {}", field.sandbox.read("server.log"));
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    Some((service, port))
}

fn middle(mut rates: Vec<f64>) -> f64 {
    rates.sort_unstable_by(f64::total_cmp);
    rates[rates.len() / 2]
}
