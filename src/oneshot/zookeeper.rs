//! A one-shot client of ZooKeeper: a session that carries out one task and is then closed. It
//! connects, and connects again after a lost connection; the task knows its requests.

use super::{OneShot, Step};
use crate::endpoint::Endpoint;
use crate::lock::{Failure, zookeeper::recipe};
use crate::moment::Moment;
use crate::plan::Cluster;
use crate::transport;
use crate::zookeeper::code::Code;
use crate::zookeeper::request::{Answer, Request};
use crate::zookeeper::session::{Change, Fault, Session, SessionEvent};
use std::time::Duration;

/// The most requests that a client has unanswered. A server stops to read at 1000
/// (`globalOutstandingLimit`), which all clients share.
pub const MAX_IN_FLIGHT: usize = 256;

/// How long the reply to the close of the session is awaited. The server has read the request by
/// then or never will: the report does not depend on it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection that ends sooner than this after the session was accepted has failed, and so many
/// in a row are the end: the server closes the connection because of a request.
const SHORT_LIFE: Duration = Duration::from_secs(1);
const MAX_SHORT_LIVES: u32 = 5;

/// What a client asks of the servers, and what it makes of the answers.
pub trait Task {
    /// What it ends with.
    type Report;

    /// A server has accepted the session: `resumed` with the watches gone and the last replies
    /// perhaps lost, otherwise a new one. The task sends its requests from the beginning.
    fn start(&mut self, resumed: bool, context: &mut Context);

    /// A request was answered.
    fn on_reply(
        &mut self,
        request: &Request,
        result: Result<Answer, Code>,
        context: &mut Context,
    ) -> Option<Result<Self::Report, Failure>>;

    /// A watch fired.
    fn on_watch(&mut self, _: Change, _path: &str, _: &mut Context) {}

    /// The list of the children of this node is too long. Whether the task can do without: then the
    /// client connects again, and the task starts again.
    fn on_long_list(&mut self, _path: &str, _why: &str) -> bool {
        false
    }

    /// Time has passed.
    fn on_tick(&mut self, _: &mut Context) -> Option<Result<Self::Report, Failure>> {
        None
    }

    /// No server answers, and the client gives up. What the task knows all the same; `None`: nothing
    /// that matters more.
    fn on_unreachable(&mut self) -> Option<Self::Report> {
        None
    }

    /// When `on_tick` has something to do.
    fn wake(&self) -> Moment {
        Moment::NEVER
    }
}

/// What a task works with.
#[derive(Debug)]
pub struct Context<'a> {
    /// The session.
    pub session: &'a mut Session,
    /// The time.
    pub now: Moment,
    in_flight: &'a mut usize,
    takes_auth: bool,
}

impl Context<'_> {
    /// Sends a request.
    pub fn send(&mut self, request: Request) {
        *self.in_flight += 1;
        self.session.ask(request, self.now);
    }

    /// How many more requests may be sent now.
    pub fn room(&self) -> usize {
        MAX_IN_FLIGHT.saturating_sub(*self.in_flight)
    }

    /// An error of the server, for the user of this program.
    pub fn explain(&self, code: Code) -> String {
        code.explain(self.takes_auth)
    }
}

/// Where and how to connect.
#[derive(Clone, Debug)]
pub struct Options {
    /// Addresses of the servers, at least one.
    pub servers: Vec<Endpoint>,
    /// Hosts that have no address, each with its reason.
    pub unresolved: Vec<String>,
    /// The ensemble. Its `hosts` are not used.
    pub cluster: Cluster,
    /// How long to try without an answer.
    pub limit: Duration,
    /// The client only reads: servers without a quorum are good enough.
    pub only_reads: bool,
    /// Whether the user can give this program credentials. If so, errors say how.
    pub takes_auth: bool,
}

#[cfg(test)]
impl Options {
    /// One server, for unit tests.
    pub(crate) fn of_tests() -> Options {
        use crate::plan::{Acl, Connection, Heartbeat};
        let timeout = Duration::from_secs(10);
        Options {
            servers: vec!["h1:2181".into()],
            unresolved: vec![],
            cluster: Cluster {
                hosts: vec![],
                connection: Connection::Direct,
                chroot: String::new(),
                timeout,
                auth: None,
                acl: Acl::Open,
                heartbeat: Heartbeat::Write,
            },
            limit: timeout,
            only_reads: false,
            takes_auth: true,
        }
    }
}

/// The client.
#[derive(Debug)]
pub struct Client<T: Task> {
    task: T,
    session: Session,
    unresolved: Vec<String>,
    takes_auth: bool,
    /// How long to try without an answer.
    limit: Duration,
    /// Requests of the task that are not answered.
    in_flight: usize,
    /// A server has accepted the session.
    was_up: bool,
    /// When it did so last, and how many connections in a row have failed soon after that.
    is_up: bool,
    up_since: Moment,
    short_lives: u32,
    /// Since when an answer is due; `None`: none is.
    unanswered_since: Option<Moment>,
    /// The result, and until when the close of the session may take.
    closing: Option<(Result<T::Report, Failure>, Moment)>,
}

impl<T: Task> Client<T> {
    /// The first `poll` starts to connect.
    pub fn new(options: Options, task: T, now: Moment) -> Client<T> {
        let cluster = options.cluster;
        let mut session = Session::new(options.servers, cluster.timeout, cluster.auth, now);
        if options.only_reads {
            session.only_reads();
        }
        Client {
            task,
            session,
            unresolved: options.unresolved,
            takes_auth: options.takes_auth,
            limit: options.limit,
            in_flight: 0,
            was_up: false,
            is_up: false,
            up_since: now,
            short_lives: 0,
            unanswered_since: Some(now),
            closing: None,
        }
    }

    fn with_task<R>(&mut self, now: Moment, work: impl FnOnce(&mut T, &mut Context) -> R) -> R {
        let mut context = Context {
            session: &mut self.session,
            now,
            in_flight: &mut self.in_flight,
            takes_auth: self.takes_auth,
        };
        work(&mut self.task, &mut context)
    }

    fn drain_session(&mut self, now: Moment) {
        while let Some(event) = self.session.next_event() {
            if let Some(result) = self.on_session_event(event, now) {
                self.close(result, now);
            }
        }
    }

    fn on_session_event(
        &mut self,
        event: SessionEvent,
        now: Moment,
    ) -> Option<Result<T::Report, Failure>> {
        let result = match event {
            SessionEvent::Up { resumed } => {
                self.in_flight = 0;
                (self.is_up, self.up_since) = (true, now);
                // Once, so that a server which accepts and never answers is not tried for ever.
                if !std::mem::replace(&mut self.was_up, true) {
                    self.unanswered_since = None;
                }
                self.with_task(now, |task, context| task.start(resumed, context));
                None
            }
            SessionEvent::Reply {
                request: Request::Close,
                ..
            }
            | SessionEvent::ClosedSilently => {
                self.finish(now);
                None
            }
            SessionEvent::Reply {
                request: Request::Ping,
                ..
            }
            | SessionEvent::Expired
            | SessionEvent::Replaced { .. }
            | SessionEvent::Disowned { .. } => return None,
            SessionEvent::Reply { request, result } => {
                self.in_flight = self.in_flight.saturating_sub(1);
                self.unanswered_since = None;
                self.with_task(now, |task, context| {
                    task.on_reply(&request, result, context)
                })
            }
            SessionEvent::Watch { change, path } => {
                self.with_task(now, |task, context| task.on_watch(change, &path, context));
                None
            }
            SessionEvent::Down(ref fault @ Fault::LongList { ref path, .. }) => {
                let why = fault.to_string();
                if self.task.on_long_list(path, &why) {
                    self.is_up = false;
                    self.unanswered_since.get_or_insert(now);
                    None
                } else {
                    Some(Err(Failure::IncompatibleLock(why)))
                }
            }
            SessionEvent::Down(_) => {
                self.unanswered_since.get_or_insert(now);
                self.finish(now);
                self.on_disconnect(now)
            }
            SessionEvent::Refused(code) => Some(Err(Failure::Refused {
                what: "authenticate".into(),
                why: code.explain(self.takes_auth),
            })),
        };
        if self.in_flight > 0 {
            self.unanswered_since.get_or_insert(now);
        } else if self.session.is_up() {
            self.unanswered_since = None;
        }
        result
    }

    /// The connection has ended. Gives up if connections end again and again.
    fn on_disconnect(&mut self, now: Moment) -> Option<Result<T::Report, Failure>> {
        let was_up = std::mem::take(&mut self.is_up);
        if !was_up {
            return None;
        }
        self.short_lives = if now < self.up_since + SHORT_LIFE {
            self.short_lives + 1
        } else {
            0
        };
        (self.short_lives >= MAX_SHORT_LIVES).then(|| self.unreachable(now))
    }

    fn unreachable(&mut self, now: Moment) -> Result<T::Report, Failure> {
        if let Some(report) = self.task.on_unreachable() {
            return Ok(report);
        }
        let mut tried = vec![self.session.faults(now)];
        tried.append(&mut self.unresolved);
        Err(recipe::unreachable(&tried.join("; ")))
    }

    /// Closes the session. Its result is reported when the server has answered, or at once if none
    /// can.
    fn close(&mut self, result: Result<T::Report, Failure>, now: Moment) {
        if self.closing.is_some() {
            return;
        }
        let by = if self.session.is_up() {
            self.session.ask(Request::Close, now);
            now + CLOSE_TIMEOUT
        } else {
            self.session.forget(now);
            now
        };
        self.closing = Some((result, by));
    }

    /// If the session is being closed, there is nothing more to wait for.
    fn finish(&mut self, now: Moment) {
        if let Some((_, by)) = &mut self.closing {
            *by = now;
        }
    }

    /// Until when an answer must come.
    fn deadline(&self) -> Moment {
        self.unanswered_since
            .map_or(Moment::NEVER, |since| since + self.limit)
    }

    fn on_tick(&mut self, now: Moment) {
        if self.closing.is_some() {
            return;
        }
        let result = if now >= self.deadline() {
            Some(self.unreachable(now))
        } else if now >= self.task.wake() {
            self.with_task(now, Task::on_tick)
        } else {
            None
        };
        if let Some(result) = result {
            self.close(result, now);
        }
    }
}

impl<T: Task> OneShot for Client<T> {
    type Report = T::Report;

    fn on_transport(&mut self, event: transport::Event, now: Moment) {
        match event {
            transport::Event::Connected => self.session.connected(now),
            transport::Event::Disconnected(why) => self.session.disconnected(why, now),
            transport::Event::Received(bytes) => self.session.received(bytes, now),
        }
        self.drain_session(now);
    }

    fn poll(&mut self, now: Moment) -> Step<T::Report> {
        if self.closing.is_none() {
            self.session.tick(now);
        }
        self.drain_session(now);
        self.on_tick(now);
        if let Some(output) = self.session.step() {
            return Step::Transport(output);
        }
        match self.closing.take_if(|(_, by)| *by <= now) {
            Some((result, _)) => Step::End(result),
            None => Step::Wait(match &self.closing {
                Some((_, by)) => *by,
                None => self
                    .session
                    .wake()
                    .min(self.deadline())
                    .min(self.task.wake()),
            }),
        }
    }
}
