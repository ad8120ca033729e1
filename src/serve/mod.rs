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

mod access_log;
mod api;
mod connection;
mod connection_table;
mod denials;
mod http_session;
mod listener;
mod page_cache;
mod server_log;
mod server_metrics;
mod service;
mod setup;
mod state_file;
mod store;
mod system;

use crate::log;
use crate::moment::Moment;
use crate::notify::{Notice, server};
use crate::plan::{self, Exit, ExitReason, Level, Server};
use crate::pool::state::State;
use crate::pool::{Backend, Input, Output};
use crate::service_manager::ServiceManager;
use crate::signal::Signal;
use crate::sys::clock;
use crate::sys::epoll::Event;
use crate::sys::signals;
use crate::sys::timer::Timer;
use server_log::ServerLog;
use service::Service;
use state_file::StateFile;
use std::fmt::Display;
use std::time::Duration;
use system::Linux;

pub use listener::Accepted;
pub use setup::backend;
pub use system::{Stream, System};

/// How long a server that shuts down waits for clients to receive the last replies, and for the
/// backend to be settled.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// How long a command that carries the connection to ZooKeeper may take to pass the last requests on.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// The epoll keys of the server's own descriptors; all others are connections.
pub const SIGNALS: u64 = 0;
const TIMER: u64 = 1;
/// The listening socket.
pub const LISTENER: u64 = 2;
/// The connection to the store.
pub const STORE: u64 = 3;

/// Reads the options and the config again. `Err`: why that failed.
pub type Reload<'a> = &'a mut dyn FnMut() -> Result<Server, String>;

/// Serves until TERM or INT. HUP calls `reload`.
pub fn serve(plan: &Server, reload: Reload) -> Exit {
    signals::survive_file_limit();
    match setup::open(plan) {
        Ok((server, timer)) => {
            server.run(timer, reload);
            Exit::Code(0)
        }
        Err((end, why)) => {
            log::print(plan.program, &why);
            plan.exit_codes.exit(end)
        }
    }
}

/// Whether a planned server could listen, read the files for TLS, and read and write its state file.
/// It changes no file.
pub fn check(plan: &Server) -> Result<(), (ExitReason, String)> {
    listener::check_address(plan).map_err(|why| (ExitReason::SystemError, why))?;
    if let plan::Backend::ZooKeeper(ensemble) = &plan.backend {
        setup::checked(plan, ensemble)?;
    }
    plan.state.as_deref().map_or(Ok(()), |path| {
        StateFile::check(path).map_err(|error| {
            let config = plan.config.display();
            (error.end(), format!("{config}: \"state\": {error}"))
        })
    })
}

/// What a server does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// It sleeps until this moment or until something happens.
    Sleep(Moment),
    /// It ends.
    End,
}

/// What a server is built from.
#[allow(missing_docs)]
pub struct Parts<S: System> {
    pub backend: Box<dyn Backend>,
    pub epoll: S::Epoll,
    pub signals: S::Signals,
    pub listener: S::Listener,
    pub state_file: Option<S::StateFile>,
    /// The connection to memcached or ZooKeeper, if the holders are kept there.
    pub store: Option<S::Store>,
}

/// A running server.
pub struct ServerLoop<'a, S: System> {
    plan: &'a Server,
    log: ServerLog<'a>,
    service: Service<'a, S>,
    signals: S::Signals,
    /// `None` during the shutdown.
    listener: Option<S::Listener>,
    state_file: Option<S::StateFile>,
    store: Option<S::Store>,
    /// The service manager that has asked for messages.
    manager: Option<ServiceManager>,
    reports: server::Reports,
    /// Set during the shutdown: when the server ends even if connections are still open.
    shutdown_deadline: Option<Moment>,
}

impl ServerLoop<'_, Linux> {
    fn run(mut self, mut timer: Timer, reload: Reload) {
        if let Some(listener) = &self.listener {
            self.log.log_start(self.plan, listener);
        }
        let ready = self.reports.ready();
        self.report(ready);
        while let Turn::Sleep(until) = self.turn() {
            let events = self.sleep(&mut timer, until);
            self.handle_events(events, reload);
        }
    }

    /// Sleeps until the deadline or the next event.
    fn sleep(&mut self, timer: &mut Timer, deadline: Moment) -> Vec<Event> {
        // Nearly every request changes the earliest deadline. A timer that fires too early costs
        // less than setting it each time.
        timer.set_by((deadline != Moment::NEVER).then_some(deadline));
        if let Some(Err(error)) = self
            .store
            .as_mut()
            .map(|store| store.watch(&self.service.epoll, STORE))
        {
            let what = "watch the connection to the store of the holders";
            self.log.log_failure(what, &error);
        }
        let limit = timer.poll_limit(clock::now());
        let events = self.service.epoll.wait(limit).unwrap_or_else(|error| {
            self.log.log_failure("wait for events", &error);
            Vec::new()
        });
        if events.iter().any(|event| event.key == TIMER) {
            timer.clear();
        }
        events
    }
}

impl<'a, S: System> ServerLoop<'a, S> {
    /// A server that prints its log by `print`.
    pub fn new(
        plan: &'a Server,
        print: fn(&str, Level, &dyn Display),
        parts: Parts<S>,
    ) -> ServerLoop<'a, S> {
        let log = ServerLog {
            program: plan.program,
            print,
            verbose: plan.verbose,
        };
        ServerLoop {
            plan,
            log,
            service: Service::new(log, parts.epoll, parts.backend, plan.access.clone()),
            signals: parts.signals,
            listener: Some(parts.listener),
            state_file: parts.state_file,
            store: parts.store,
            manager: plan
                .manager
                .as_ref()
                .map(|manager| ServiceManager::new(manager, S::now())),
            reports: server::Reports::default(),
            shutdown_deadline: None,
        }
    }

    /// Does everything that is to be done before the next sleep.
    pub fn turn(&mut self) -> Turn {
        let mut backend_deadline = self.run_backend();
        if self.look_up_names() {
            backend_deadline = self.run_backend();
        }
        if let Some(until) = self.shutdown_deadline {
            if self.is_settled() {
                self.service.backend.close(S::now());
                backend_deadline = self.run_backend();
            }
            if self.is_settled() || until <= S::now() {
                self.finish();
                return Turn::End;
            }
        }
        let deadline = backend_deadline.min(self.report_status());
        Turn::Sleep(deadline.min(self.next_deadline()))
    }

    /// Looks up the names of the servers of the backend again, if that is due. Returns whether the
    /// backend has got addresses.
    fn look_up_names(&mut self) -> bool {
        let now = S::now();
        let found = self.store.as_mut().and_then(|store| S::look_up(store, now));
        let Some(found) = found else { return false };
        self.service.backend.relist(found.endpoints, now);
        true
    }

    /// Whether nothing is left for which a server that stops would wait.
    fn is_settled(&self) -> bool {
        self.service.connections().is_empty() && self.service.backend.is_settled()
    }

    /// Sends a message to the service manager.
    fn report(&mut self, notice: Notice) {
        if let Some(manager) = &mut self.manager {
            manager.add(notice);
            if let Some(error) = manager.send(true, S::now()) {
                self.log
                    .log_failure("send to the service manager at $NOTIFY_SOCKET", &error);
            }
        }
    }

    /// Sends what is due to the service manager. Returns when more is due.
    fn report_status(&mut self) -> Moment {
        if self.manager.is_none() {
            return Moment::NEVER;
        }
        let now = S::now();
        let mut notice = None;
        if self.reports.is_due(now) {
            let pools = self.service.backend.report(now);
            notice = self.reports.status(&pools, now);
        }
        self.report(notice.unwrap_or_default());
        let manager = self.manager.as_ref();
        let next = manager.map_or(Moment::NEVER, ServiceManager::wake);
        next.min(self.reports.wake())
    }

    /// The earliest deadline that is not the backend's.
    fn next_deadline(&self) -> Moment {
        let listener = self.listener.as_ref().map_or(Moment::NEVER, S::resumes_at);
        self.service
            .connections()
            .next_deadline()
            .min(listener)
            .min(self.store.as_ref().map_or(Moment::NEVER, S::look_up_due))
            .min(self.service.denials_due())
            .min(self.shutdown_deadline.unwrap_or(Moment::NEVER))
    }

    /// Carries out all outputs of the backend. Returns its next deadline.
    fn run_backend(&mut self) -> Moment {
        loop {
            match self.service.backend.poll(S::now()) {
                Output::Answer(ticket, answer) => self.service.deliver(ticket, &answer),
                Output::Report(ticket) => self.service.deliver_page(ticket),
                Output::Save(state) => self.save(&state),
                Output::Note(level, note) => self.log.log(level, &note),
                Output::Transport(output) => {
                    let store = self.store.as_mut();
                    if let Some(event) = store.and_then(|store| S::execute(store, output)) {
                        self.service
                            .backend
                            .handle(Input::Transport(event), S::now());
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
            .map_or(Ok(()), |file| S::save(file, state));
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
        self.service.backend.handle(input, S::now());
    }

    /// Handles the events that have ended the sleep.
    pub fn handle_events(&mut self, events: Vec<Event>, reload: Reload) {
        if self.shutdown_deadline.is_none() && events.iter().any(|event| event.key != TIMER) {
            self.reports.touch();
        }
        for Event { key, ended } in events {
            match key {
                SIGNALS => self.handle_signals(reload),
                TIMER => {}
                LISTENER => self.accept_connections(),
                STORE => self.receive_from_store(),
                key => self.service.on_ready(key, ended),
            }
        }
        self.service.expire_deadlines();
        self.service.log_denials();
        if let Some(listener) = &mut self.listener
            && let Err(error) = S::resume(listener, &self.service.epoll)
        {
            self.log.log_failure("accept connections", &error);
        }
        self.service.backend.handle(Input::Tick, S::now());
    }

    fn receive_from_store(&mut self) {
        if let Some(store) = &mut self.store {
            let backend = &mut self.service.backend;
            S::read(store, |event| {
                backend.handle(Input::Transport(event), S::now());
            });
        }
    }

    /// A child has ended.
    fn reap_children(&mut self) {
        if let Some(store) = &mut self.store {
            let backend = &mut self.service.backend;
            S::reap(store, |event| {
                backend.handle(Input::Transport(event), S::now());
            });
        }
    }

    fn accept_connections(&mut self) {
        let Some(listener) = &mut self.listener else {
            return;
        };
        for accepted in S::accept(listener, self.service.connections().len()) {
            match accepted {
                Accepted::Connection(stream) => self.service.accept(stream),
                Accepted::OverLimit(stream) => self.service.accept_over_limit(stream),
                Accepted::OutOfResources(why) => match S::pause(listener, &self.service.epoll) {
                    Ok(true) => self.log.log(
                        Level::Warning,
                        &format_args!("new connections are paused: {why}"),
                    ),
                    Ok(false) => {}
                    Err(error) => self.log.log_failure("stop accepting connections", &error),
                },
            }
        }
    }

    fn handle_signals(&mut self, reload: Reload) {
        while let Some(signal) = S::next_signal(&self.signals) {
            match (signal, self.shutdown_deadline) {
                (Signal::CHLD, _) => self.reap_children(),
                (Signal::HUP, None) => {
                    self.report(server::Reports::reloading(clock::monotonic()));
                    self.reload(reload());
                    let ready = self.reports.ready();
                    self.report(ready);
                }
                (signal @ (Signal::TERM | Signal::INT), None) => self.begin_shutdown(signal),
                // A second signal ends the server at once.
                (Signal::TERM | Signal::INT, Some(_)) => self.shutdown_deadline = Some(S::now()),
                _ => {}
            }
        }
    }

    fn reload(&mut self, plan: Result<Server, String>) {
        match plan {
            Ok(plan) => {
                self.log.log_reload(self.plan, &plan);
                self.service.change_access(plan.access, &plan.pools);
                self.service.backend.reconfigure(plan.pools, S::now());
            }
            Err(why) => self.log.log(
                Level::Error,
                &format_args!("{why}; the server keeps its pools, access tokens and networks"),
            ),
        }
    }

    /// Stops accepting connections, and gives the requests that have begun `SHUTDOWN_GRACE`.
    fn begin_shutdown(&mut self, signal: Signal) {
        self.log.log(
            Level::Info,
            &format_args!("received {signal}: shutting down"),
        );
        let stopping = self.reports.stopping();
        self.report(stopping);
        self.shutdown_deadline = Some(S::now() + SHUTDOWN_GRACE);
        self.listener = None;
        self.service.begin_shutdown("the server is shutting down");
    }

    /// Closes all connections. Grants that were not received by now are taken back and saved.
    fn finish(&mut self) {
        self.service.close_all();
        self.run_backend();
        self.service.backend.close(S::now());
        self.run_backend();
        if let Some(store) = &mut self.store {
            S::part(store, S::now() + LAST_WORDS);
        }
        self.log.log(Level::Info, &"shut down");
    }
}
