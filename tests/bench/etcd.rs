//! A real etcd of one member, which waits for no disk: its data are in memory, as ZooKeeper here
//! waits for none.

use crate::service::{Service, installed};
use common::{free_port, sandbox::Sandbox, wait_until};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;

/// A running etcd.
pub struct Etcd {
    /// As etcdctl is given it.
    pub address: String,
    data: PathBuf,
    service: Service,
}

impl Etcd {
    /// Starts one; `Err` is what to install.
    pub fn start(sandbox: &Sandbox) -> Result<Etcd, &'static str> {
        if !installed("etcd") || !installed("etcdctl") {
            return Err("apt-get install etcd-server etcd-client");
        }
        let data = PathBuf::from(format!("/dev/shm/{}-etcd", sandbox.id));
        let [clients, peers] = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
        let [client_url, peer_url] = [&clients, &peers].map(|address| format!("http://{address}"));
        let cluster = format!("default={peer_url}");
        let words = [
            "etcd",
            "--data-dir",
            data.to_str().expect("paths of tests are text"),
            "--log-level",
            "error",
        ];
        let clients_words = [
            "--listen-client-urls",
            &client_url,
            "--advertise-client-urls",
            &client_url,
        ];
        let peers_words = [
            "--listen-peer-urls",
            &peer_url,
            "--initial-advertise-peer-urls",
            &peer_url,
            "--initial-cluster",
            &cluster,
        ];
        let service = Service::start(
            &[&words[..], &clients_words, &peers_words].concat(),
            &sandbox.folder,
        );
        let etcd = Etcd {
            address: clients,
            data,
            service,
        };
        wait_until("etcd to serve", || {
            assert!(
                etcd.service.runs(),
                "etcd has ended: {}",
                sandbox.read("server.log")
            );
            etcd.ask("/health")
                .is_some_and(|health| health.contains(r#""health":"true""#))
        });
        Ok(etcd)
    }

    /// How many watch a key, as each waiter for a lock does, and have been told all that was
    /// before: etcd catches up every 100 ms.
    pub fn watchers(&self) -> usize {
        let metrics = self.ask("/metrics").expect("it answers");
        let count = |name: &str| -> usize {
            let value = metrics
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            value
                .and_then(|count| count.parse().ok())
                .expect("etcd counts its watchers")
        };
        count("etcd_debugging_mvcc_watcher_total")
            .saturating_sub(count("etcd_debugging_mvcc_slow_watcher_total"))
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        self.service.pid
    }

    fn ask(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        stream
            .write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())
            .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.data);
    }
}
