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
    pub(super) fn get(&self, page: &Page, scope: &Scope, now: Moment) -> Option<&Reply> {
        let is_meant =
            |kept: &&KeptPage| now < kept.until && kept.page == *page && kept.scope == *scope;
        self.pages.iter().find(is_meant).map(|kept| &kept.reply)
    }

    /// Whether the time for pages of browsers is used up. Each reader may ask for another one of
    /// them, so they have one tenth of the server's time together.
    pub(super) fn is_exhausted(&self, page: &Page, now: Moment) -> bool {
        let is_html = |page: &Page| matches!(page, Page::Html(_));
        let counts = |kept: &KeptPage| now < kept.until && is_html(&kept.page);
        is_html(page) && self.pages.iter().any(counts)
    }

    /// A page for readers of this scope was written from `since` to `now`.
    pub(super) fn keep(
        &mut self,
        page: &Page,
        scope: &Scope,
        reply: &Reply,
        since: Moment,
        now: Moment,
    ) {
        let took = now.since(since);
        self.pages.retain(|kept| now < kept.until);
        if took >= QUICK {
            self.pages.push(KeptPage {
                page: page.clone(),
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
    use crate::pool::page::view::View;

    #[test]
    fn slow_page_is_kept_for_nine_times_as_long_as_it_took() {
        let at = |ms| Moment(Duration::from_millis(ms));
        let reply = Reply::new(200, "text/plain", "page");
        let mut cache = PageCache::default();
        cache.keep(&Page::Status, &Scope::All, &reply, at(100), at(120));
        assert_eq!(cache.get(&Page::Status, &Scope::All, at(120)), Some(&reply));
        assert_eq!(cache.get(&Page::Status, &Scope::All, at(299)), Some(&reply));
        assert_eq!(cache.get(&Page::Status, &Scope::All, at(300)), None);
        assert_eq!(cache.get(&Page::Metrics, &Scope::All, at(120)), None);
        let scope = Scope::Pools(["p".to_owned()].into());
        assert_eq!(cache.get(&Page::Status, &scope, at(120)), None);
        let other = Reply::new(200, "text/plain", "page of p");
        cache.keep(&Page::Status, &scope, &other, at(120), at(140));
        assert_eq!(cache.get(&Page::Status, &scope, at(140)), Some(&other));
        assert_eq!(cache.get(&Page::Status, &Scope::All, at(140)), Some(&reply));
        cache.keep(&Page::Status, &Scope::All, &reply, at(300), at(300));
        assert_eq!(
            cache.get(&Page::Status, &Scope::All, at(300)),
            None,
            "it was quick"
        );
    }

    #[test]
    fn pages_of_browsers_have_a_tenth_of_the_time_together() {
        let at = |ms| Moment(Duration::from_millis(ms));
        let reply = Reply::new(200, "text/html", "page");
        let html = |pool: &str| Page::Html(View::of_pool(pool));
        let mut cache = PageCache::default();
        assert!(!cache.is_exhausted(&html("a"), at(100)));
        cache.keep(&Page::Status, &Scope::All, &reply, at(100), at(120));
        assert!(!cache.is_exhausted(&html("a"), at(120)), "that was JSON");
        cache.keep(&html("a"), &Scope::All, &reply, at(120), at(120));
        assert!(!cache.is_exhausted(&html("b"), at(120)), "it was quick");
        cache.keep(&html("a"), &Scope::All, &reply, at(120), at(122));
        assert_eq!(cache.get(&html("a"), &Scope::All, at(122)), Some(&reply));
        assert_eq!(cache.get(&html("b"), &Scope::All, at(122)), None);
        assert!(cache.is_exhausted(&html("b"), at(139)));
        assert!(!cache.is_exhausted(&html("b"), at(140)));
        assert!(!cache.is_exhausted(&Page::Status, at(122)));
        assert!(!cache.is_exhausted(&Page::Metrics, at(122)));
    }
}
