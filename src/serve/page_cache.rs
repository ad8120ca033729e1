//! Pages that are sent again instead of being written again. With thousands of waiters, writing a
//! page takes milliseconds in which no other client is served.

use super::api::Page;
use crate::http::Reply;
use crate::moment::Moment;
use std::time::Duration;

/// A page that is written faster than this is not kept, so that it is always up to date.
const QUICK: Duration = Duration::from_millis(1);

/// A page is kept for this many times the time that it took. So readers take at most a tenth of the
/// server's time for each page, however many they are.
const KEPT: u32 = 9;

/// The last page of each kind.
#[derive(Debug, Default)]
pub(super) struct PageCache {
    status: Option<KeptPage>,
    metrics: Option<KeptPage>,
}

#[derive(Debug)]
struct KeptPage {
    reply: Reply,
    until: Moment,
}

impl PageCache {
    /// The page, if it is still to be sent.
    pub(super) fn get(&self, page: Page, now: Moment) -> Option<&Reply> {
        let kept = match page {
            Page::Status => self.status.as_ref(),
            Page::Metrics => self.metrics.as_ref(),
        };
        kept.filter(|kept| now < kept.until).map(|kept| &kept.reply)
    }

    /// A page was written from `since` to `now`.
    pub(super) fn keep(&mut self, page: Page, reply: &Reply, since: Moment, now: Moment) {
        let took = now.since(since);
        let kept = (took >= QUICK).then(|| KeptPage {
            reply: reply.clone(),
            until: now + took * KEPT,
        });
        match page {
            Page::Status => self.status = kept,
            Page::Metrics => self.metrics = kept,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_page_is_kept_for_nine_times_as_long_as_it_took() {
        let at = |ms| Moment(Duration::from_millis(ms));
        let reply = Reply::new(200, "text/plain", "page");
        let mut cache = PageCache::default();
        cache.keep(Page::Status, &reply, at(100), at(120));
        assert_eq!(cache.get(Page::Status, at(120)), Some(&reply));
        assert_eq!(cache.get(Page::Status, at(299)), Some(&reply));
        assert_eq!(cache.get(Page::Status, at(300)), None);
        assert_eq!(cache.get(Page::Metrics, at(120)), None);
        cache.keep(Page::Status, &reply, at(300), at(300));
        assert_eq!(cache.get(Page::Status, at(300)), None, "it was quick");
    }
}
