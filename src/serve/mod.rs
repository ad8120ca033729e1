//! The lock server: one loop that waits on an epoll, its only place to sleep.
//!
//! The way of one HTTP request:
//! 1. `listener` accepts the connection; `service` registers it (`accept`).
//! 2. The epoll reports bytes: `Service::on_ready` reads them through `connection` into its
//!    `http_session`, and `Service::process` takes each complete request out.
//! 3. `api` finds the call that the request makes (`route`); `Service::ask_pool` passes it to the
//!    backend in [`pool`](crate::pool) with a ticket.
//! 4. `ServerLoop::run_backend` collects the answer; `Service::deliver` finds the connection of the
//!    ticket in `connection_table`, and `api` makes the reply (`answer_reply`).

mod api;
mod connection;
mod connection_table;
mod http_session;
mod listener;
mod memcached;
mod server_log;
mod server_metrics;
mod service;
mod setup;
mod state_file;

use crate::log;
use crate::moment::Moment;
use crate::plan::{Exit, ExitReason, Level, Server};
use crate::pool::state::State;
use crate::pool::{Input, Output};
use crate::signal::Signal;
use crate::sys::clock::now;
use crate::sys::epoll::Event;
use crate::sys::signals;
use crate::sys::signals::Signals;
use crate::sys::timer::Timer;
use listener::{Accepted, Listener};
use memcached::Memcached;
use server_log::ServerLog;
use service::Service;
use state_file::StateFile;
use std::time::Duration;

/// How long a server that shuts down waits for clients to receive the last replies.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// The epoll keys of the server's own descriptors; all others are connections.
const SIGNALS: u64 = 0;
const TIMER: u64 = 1;
const LISTENER: u64 = 2;
const MEMCACHED: u64 = 3;

/// Reads the options and the config again. `Err`: why that failed.
pub type Reload<'a> = &'a mut dyn FnMut() -> Result<Server, String>;

/// Serves until TERM or INT. HUP calls `reload`.
pub fn serve(plan: &Server, reload: Reload) -> Exit {
    signals::survive_file_limit();
    match setup::open(plan) {
        Ok(server) => {
            server.run(reload);
            Exit::Code(0)
        }
        Err((end, why)) => {
            log::print(plan.program, &why);
            plan.exit_codes.exit(end)
        }
    }
}

/// Whether a planned server could listen, and read and write its state file. It changes no file.
pub fn check(plan: &Server) -> Result<(), (ExitReason, String)> {
    listener::check_address(plan).map_err(|why| (ExitReason::SystemError, why))?;
    plan.state.as_deref().map_or(Ok(()), |path| {
        StateFile::check(path).map_err(|error| {
            let config = plan.config.display();
            (error.end(), format!("{config}: \"state\": {error}"))
        })
    })
}

/// A running server.
struct ServerLoop<'a> {
    plan: &'a Server,
    log: ServerLog<'a>,
    service: Service<'a>,
    signals: Signals,
    timer: Timer,
    /// `None` during the shutdown.
    listener: Option<Listener>,
    state_file: Option<StateFile>,
    /// The connection to memcached, if the holders are kept there.
    memcached: Option<Memcached>,
    /// Set during the shutdown: when the server ends even if connections are still open.
    shutdown_deadline: Option<Moment>,
}

impl ServerLoop<'_> {
    fn run(mut self, reload: Reload) {
        if let Some(listener) = &self.listener {
            self.log.log_start(self.plan, listener);
        }
        loop {
            let backend_deadline = self.run_backend();
            if self
                .shutdown_deadline
                .is_some_and(|until| self.service.connections().is_empty() || until <= now())
            {
                return self.finish();
            }
            let events = self.sleep(backend_deadline.min(self.next_deadline()));
            self.handle_events(events, reload);
        }
    }

    /// The earliest deadline that is not the backend's.
    fn next_deadline(&self) -> Moment {
        let listener = self
            .listener
            .as_ref()
            .map_or(Moment::NEVER, Listener::resumes_at);
        self.service
            .connections()
            .next_deadline()
            .min(listener)
            .min(self.shutdown_deadline.unwrap_or(Moment::NEVER))
    }

    /// Carries out all outputs of the backend. Returns its next deadline.
    fn run_backend(&mut self) -> Moment {
        loop {
            match self.service.backend.poll(now()) {
                Output::Answer(ticket, answer) => self.service.deliver(ticket, &answer),
                Output::Report(ticket) => self.service.deliver_page(ticket),
                Output::Save(state) => self.save(&state),
                Output::Note(level, note) => self.log.log(level, &note),
                Output::Transport(output) => {
                    let memcached = self.memcached.as_mut();
                    if let Some(event) = memcached.and_then(|memcached| memcached.execute(output)) {
                        self.service.backend.handle(Input::Transport(event), now());
                    }
                }
                Output::Wait(until) => {
                    if !self.service.reap_disconnected() && !self.service.update_interests() {
                        return until;
                    }
                }
            }
        }
    }

    fn save(&mut self, state: &State) {
        let saved = self
            .state_file
            .as_ref()
            .map_or(Ok(()), |file| file.save(state));
        let metrics = &mut self.service.metrics;
        let input = match saved {
            Ok(()) => {
                metrics.saves += 1;
                Input::Saved
            }
            Err(why) => {
                metrics.failed_saves += 1;
                Input::NotSaved(why)
            }
        };
        self.service.backend.handle(input, now());
    }

    /// Sleeps until the deadline or the next event.
    fn sleep(&mut self, deadline: Moment) -> Vec<Event> {
        // Nearly every request changes the earliest deadline. A timer that fires too early costs
        // less than setting it each time.
        self.timer
            .set_by((deadline != Moment::NEVER).then_some(deadline));
        if let Some(Err(error)) = self
            .memcached
            .as_mut()
            .map(|memcached| memcached.watch(&self.service.epoll, MEMCACHED))
        {
            let what = "watch the connection to memcached";
            self.log.log_failure(what, &error);
        }
        let limit = self.timer.poll_limit(now());
        self.service.epoll.wait(limit).unwrap_or_else(|error| {
            self.log.log_failure("wait for events", &error);
            Vec::new()
        })
    }

    fn handle_events(&mut self, events: Vec<Event>, reload: Reload) {
        for Event { key, ended } in events {
            match key {
                SIGNALS => self.handle_signals(reload),
                TIMER => self.timer.clear(),
                LISTENER => self.accept_connections(),
                MEMCACHED => self.receive_from_memcached(),
                key => self.service.on_ready(key, ended),
            }
        }
        self.service.expire_deadlines();
        if let Some(listener) = &mut self.listener
            && let Err(error) = listener.resume(&self.service.epoll, LISTENER, now())
        {
            self.log.log_failure("accept connections", &error);
        }
        self.service.backend.handle(Input::Tick, now());
    }

    fn receive_from_memcached(&mut self) {
        if let Some(memcached) = &mut self.memcached {
            memcached.ready(|event| {
                self.service.backend.handle(Input::Transport(event), now());
            });
        }
    }

    fn accept_connections(&mut self) {
        let Some(listener) = &mut self.listener else {
            return;
        };
        for accepted in listener.accept_pending(self.service.connections().len()) {
            match accepted {
                Accepted::Connection(stream) => self.service.accept(stream),
                Accepted::OverLimit(stream) => self.service.reject_over_limit(stream),
                Accepted::OutOfResources(why) => {
                    match listener.pause(&self.service.epoll, LISTENER, now()) {
                        Ok(true) => self.log.log(
                            Level::Warning,
                            &format_args!("new connections are paused: {why}"),
                        ),
                        Ok(false) => {}
                        Err(error) => self.log.log_failure("stop accepting connections", &error),
                    }
                }
            }
        }
    }

    fn handle_signals(&mut self, reload: Reload) {
        while let Some(received) = self.signals.next() {
            match (received.signal, self.shutdown_deadline) {
                (Signal::HUP, None) => self.reload(reload()),
                (signal @ (Signal::TERM | Signal::INT), None) => self.begin_shutdown(signal),
                // A second signal ends the server at once.
                (Signal::TERM | Signal::INT, Some(_)) => self.shutdown_deadline = Some(now()),
                _ => {}
            }
        }
    }

    fn reload(&mut self, plan: Result<Server, String>) {
        match plan {
            Ok(plan) => {
                self.log.log_reload(self.plan, &plan);
                self.service.backend.reconfigure(plan.pools, now());
            }
            Err(why) => self.log.log(
                Level::Error,
                &format_args!("{why}; the pools stay as they are"),
            ),
        }
    }

    /// Stops accepting connections, and gives the requests that have begun `SHUTDOWN_GRACE`.
    fn begin_shutdown(&mut self, signal: Signal) {
        self.log.log(
            Level::Info,
            &format_args!("received {signal}: shutting down"),
        );
        self.shutdown_deadline = Some(now() + SHUTDOWN_GRACE);
        self.listener = None;
        self.service.begin_shutdown("the server is shutting down");
    }

    /// Closes all connections. Grants that were not received by now are taken back and saved.
    fn finish(mut self) {
        self.service.close_all();
        self.run_backend();
        self.log.log(Level::Info, &"shut down");
    }
}
