//! Our lock server, as it ships, with the pools that the measurements use.

use crate::contestants::Programs;
use crate::service::Service;
use common::sandbox::Sandbox;
use common::{free_port, wait_until};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

/// A running server.
pub struct Distributexd {
    /// Where it listens, on all addresses of this host.
    pub port: u16,
    service: Service,
}

impl Distributexd {
    /// One with such pools, and such lines in its config besides. `Err` is what it has said instead
    /// of serving.
    pub fn start(
        sandbox: &Sandbox,
        programs: &Programs,
        pools: &[&str],
        config: &str,
    ) -> Result<Distributexd, String> {
        let port = free_port();
        let path = sandbox.path(&format!("distributexd-{port}.yaml"));
        let pools: String = pools
            .iter()
            .map(|pool| format!("  - name: {pool}\n    servers: \"\"\n"))
            .collect();
        fs::write(&path, format!("{config}pools:\n{pools}")).expect("the config can be written");
        let [program, config] =
            [&programs.zk_flock, &path].map(|path| path.to_str().expect("paths of tests are text"));
        let service = Service::start(
            &[
                program,
                "--program=distributexd",
                "-c",
                config,
                "-p",
                &port.to_string(),
            ],
            &sandbox.folder,
        );
        let server = Distributexd { port, service };
        wait_until("distributexd to serve, or not", || {
            !server.service.runs() || server.ask("/status/").is_some()
        });
        let last_words = || {
            sandbox
                .read("server.log")
                .lines()
                .last()
                .unwrap_or_default()
                .to_owned()
        };
        if server.service.runs() {
            Ok(server)
        } else {
            Err(last_words())
        }
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        self.service.pid
    }

    /// Its address.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// How many wait, for whatever pool.
    pub fn waiting(&self) -> usize {
        self.ask("/status/")
            .expect("it answers")
            .matches("\"waiting\":")
            .count()
    }

    fn ask(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.address()).ok()?;
        stream
            .write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())
            .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }
}
