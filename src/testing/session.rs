//! A ZooKeeper session, as the driver sees it.

use super::{Machine, Step};
use crate::moment::Moment;
use crate::transport;
use crate::zookeeper::session::{News, Session};
use std::net::SocketAddr;

impl Machine for Session {
    type To = SocketAddr;
    type Report = News;
    type Rules = ();

    fn take_event(&mut self, event: transport::Event, now: Moment) {
        match event {
            transport::Event::Connected => self.connected(now),
            transport::Event::Disconnected(why) => self.disconnected(why, now),
            transport::Event::Received(bytes) => self.received(bytes, now),
        }
    }

    fn take_time(&mut self, now: Moment) {
        self.tick(now);
    }

    fn give(&mut self, now: Moment) -> Step<SocketAddr, News> {
        self.tick(now);
        if let Some(news) = self.news() {
            return Step::Report(news);
        }
        self.step()
            .map_or_else(|| Step::Wait(self.wake()), Step::Transport)
    }

    fn check((): &mut (), _: &News) {}
}
