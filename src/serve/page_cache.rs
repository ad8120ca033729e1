//! Pages that are sent again instead of being written again. With thousands of waiters, writing a
//! page takes milliseconds in which no other client is served.

use super::api::Page;
use crate::http::Reply;
use crate::moment::Moment;
use crate::pool::access::Scope;
use std::time::Duration;

/// A page that is written faster than this is not kept, so that it is always up to date.
const QUICK: Duration = Duration::from_millis(1);

/// A page is kept for this many times the time that it took. So readers take at most a tenth of the
/// server's time for each page, however many they are.
const KEPT: u32 = 9;

/// The last pages that were slow: at most one of each kind for each scope of readers.
#[derive(Debug, Default)]
pub(super) struct PageCache {
    pages: Vec<KeptPage>,
}

#[derive(Debug)]
struct KeptPage {
    page: Page,
    scope: Scope,
    reply: Reply,
    until: Moment,
}

impl PageCache {
    /// The page for readers of this scope, if it is still to be sent.
    pub(super) fn get(&self, page: Page, scope: &Scope, now: Moment) -> Option<&Reply> {
        let is_meant =
            |kept: &&KeptPage| now < kept.until && kept.page == page && kept.scope == *scope;
        self.pages.iter().find(is_meant).map(|kept| &kept.reply)
    }

    /// A page for readers of this scope was written from `since` to `now`.
    pub(super) fn keep(
        &mut self,
        page: Page,
        scope: &Scope,
        reply: &Reply,
        since: Moment,
        now: Moment,
    ) {
        let took = now.since(since);
        self.pages.retain(|kept| now < kept.until);
        if took >= QUICK {
            self.pages.push(KeptPage {
                page,
                scope: scope.clone(),
                reply: reply.clone(),
                until: now + took * KEPT,
            });
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
        cache.keep(Page::Status, &Scope::All, &reply, at(100), at(120));
        assert_eq!(cache.get(Page::Status, &Scope::All, at(120)), Some(&reply));
        assert_eq!(cache.get(Page::Status, &Scope::All, at(299)), Some(&reply));
        assert_eq!(cache.get(Page::Status, &Scope::All, at(300)), None);
        assert_eq!(cache.get(Page::Metrics, &Scope::All, at(120)), None);
        let scope = Scope::Pools(["p".to_owned()].into());
        assert_eq!(cache.get(Page::Status, &scope, at(120)), None);
        let other = Reply::new(200, "text/plain", "page of p");
        cache.keep(Page::Status, &scope, &other, at(120), at(140));
        assert_eq!(cache.get(Page::Status, &scope, at(140)), Some(&other));
        assert_eq!(cache.get(Page::Status, &Scope::All, at(140)), Some(&reply));
        cache.keep(Page::Status, &Scope::All, &reply, at(300), at(300));
        assert_eq!(
            cache.get(Page::Status, &Scope::All, at(300)),
            None,
            "it was quick"
        );
    }
}
