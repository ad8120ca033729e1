//! A one-shot client of a lock server: one request, and what its reply means.

use super::{OneShot, Step};
use crate::endpoint::Endpoint;
use crate::http::client::{HttpClient, HttpEvent};
use crate::http::{LONGEST_LIST, Reply};
use crate::lock::Failure;
use crate::moment::Moment;
use crate::transport;
use std::time::Duration;

/// How long the server may take to answer.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What a client asks of the server, and what it makes of the reply.
pub trait Question {
    /// What it ends with.
    type Report;

    /// The request.
    fn request(&self) -> Vec<u8>;

    /// The reply has arrived.
    fn report(&self, reply: &Reply) -> Result<Self::Report, Failure>;
}

/// The client.
#[derive(Debug)]
pub struct Client<Q> {
    question: Q,
    http: HttpClient,
    by: Moment,
}

impl<Q: Question> Client<Q> {
    /// The first `poll` starts to connect. `limit`: how long the server may take at most.
    pub fn new(question: Q, servers: Vec<Endpoint>, limit: Duration, now: Moment) -> Client<Q> {
        let limit = limit.min(ANSWER_TIMEOUT);
        let mut http = HttpClient::new(servers, now).reading(LONGEST_LIST);
        http.ask(question.request(), limit, now);
        Client {
            question,
            http,
            by: now + limit,
        }
    }
}

impl<Q: Question> OneShot for Client<Q> {
    type Report = Q::Report;

    fn on_transport(&mut self, event: transport::Event, now: Moment) {
        self.http.on_transport(event, now);
    }

    fn poll(&mut self, now: Moment) -> Step<Q::Report> {
        self.http.tick(now);
        while let Some(event) = self.http.event() {
            if let HttpEvent::Answered { reply, .. } = event {
                return Step::End(self.question.report(&reply));
            }
        }
        if let Some(output) = self.http.output() {
            return Step::Transport(output);
        }
        if now >= self.by {
            return Step::End(Err(Failure::Unreachable(self.http.faults(now))));
        }
        Step::Wait(self.http.wake().min(self.by))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::get;

    struct Ping;

    impl Question for Ping {
        type Report = u16;

        fn request(&self) -> Vec<u8> {
            get("/", &[], "dx:9889", false)
        }

        fn report(&self, reply: &Reply) -> Result<u16, Failure> {
            Ok(reply.status)
        }
    }

    #[test]
    fn silent_server_is_left_at_the_limit() {
        let limit = Duration::from_secs(2);
        let mut now = Moment(Duration::ZERO);
        let mut client = Client::new(Ping, vec!["dx:9889".into()], limit, now);
        let failure = loop {
            match client.poll(now) {
                Step::Transport(_) => {}
                Step::Wait(until) => now = until,
                Step::End(result) => break result.map(drop),
            }
        };
        assert!(
            matches!(failure, Err(Failure::Unreachable(_))),
            "{failure:?}"
        );
        assert_eq!(now, Moment(limit));
    }
}
