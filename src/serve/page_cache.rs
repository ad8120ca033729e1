//! Pages that are sent again instead of being written again. With thousands of waiters, writing a
//! page takes milliseconds in which no other client is served.

use super::api::Page;
use crate::http::Reply;
use crate::moment::Moment;
use crate::pool::access::Scope;
use std::time::Duration;

/// A page that is written faster than this is not kept, so that it is always up to date.
const QUICK: Duration = Duration::from_millis(1);

/// Slow pages take one part in this many of the server's time together. Each is kept until that
/// holds for it and for all pages that were kept before it, so it holds for any number of readers.
const SHARE: u32 = 10;

/// The last pages that were slow: at most one of each kind for each scope of readers.
#[derive(Debug, Default)]
pub(super) struct PageCache {
    pages: Vec<KeptPage>,
    /// Until when the time for slow pages is used up.
    used_up: Moment,
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

    /// Whether the time for pages of browsers is used up for readers of this scope. Each of them
    /// may ask for another page, so only one is kept for a scope, and no reader uses up the time
    /// of another scope.
    pub(super) fn is_exhausted(&self, page: &Page, scope: &Scope, now: Moment) -> bool {
        let is_html = |page: &Page| matches!(page, Page::Html(_));
        let counts =
            |kept: &KeptPage| now < kept.until && is_html(&kept.page) && kept.scope == *scope;
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
            self.used_up = self.used_up.max(since) + took * SHARE;
            self.pages.push(KeptPage {
                page: page.clone(),
                scope: scope.clone(),
                reply: reply.clone(),
                until: self.used_up,
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
    fn pages_of_all_scopes_take_a_tenth_of_the_time_together() {
        let at = |ms| Moment(Duration::from_millis(ms));
        let reply = Reply::new(200, "text/plain", "page");
        let scope = |pool: &str| Scope::Pools([pool.to_owned()].into());
        let scopes = [scope("a"), scope("b"), scope("c"), scope("d"), Scope::All];
        let all = [Page::Status, Page::Metrics, Page::Html(View::default())];
        let (mut cache, mut now, mut spent) = (PageCache::default(), 0, 0);
        // All of them are asked for all the time. One takes longer than the others.
        while now < 100_000 {
            for (scope, page) in scopes
                .iter()
                .flat_map(|it| all.iter().map(move |page| (it, page)))
            {
                if cache.get(page, scope, at(now)).is_none()
                    && !cache.is_exhausted(page, scope, at(now))
                {
                    let took = if *scope == Scope::All { 50 } else { 2 };
                    cache.keep(page, scope, &reply, at(now), at(now + took));
                    (now, spent) = (now + took, spent + took);
                }
            }
            now += 1;
        }
        // The pages that are kept at the end use up time after it.
        let round = 3 * (50 + 4 * 2);
        assert!(spent <= now / 10 + round, "{spent} of {now}");
        assert!(
            spent >= now / 20,
            "{spent} of {now}: they are written again"
        );
    }

    #[test]
    fn pages_of_browsers_use_up_the_time_of_their_scope_alone() {
        let at = |ms| Moment(Duration::from_millis(ms));
        let reply = Reply::new(200, "text/html", "page");
        let html = |pool: &str| Page::Html(View::of_pool(pool));
        let scope = Scope::Pools(["a".to_owned()].into());
        let mut cache = PageCache::default();
        assert!(!cache.is_exhausted(&html("a"), &scope, at(100)));
        cache.keep(&Page::Status, &scope, &reply, at(100), at(102));
        assert!(
            !cache.is_exhausted(&html("a"), &scope, at(102)),
            "that was JSON"
        );
        cache.keep(&html("a"), &scope, &reply, at(120), at(120));
        assert!(
            !cache.is_exhausted(&html("b"), &scope, at(120)),
            "it was quick"
        );
        cache.keep(&html("a"), &scope, &reply, at(120), at(122));
        assert_eq!(cache.get(&html("a"), &scope, at(122)), Some(&reply));
        assert_eq!(cache.get(&html("b"), &scope, at(122)), None);
        assert!(cache.is_exhausted(&html("b"), &scope, at(139)));
        assert!(!cache.is_exhausted(&html("b"), &scope, at(140)));
        assert!(!cache.is_exhausted(&html("b"), &Scope::All, at(122)));
        assert!(!cache.is_exhausted(&Page::Status, &scope, at(122)));
        assert!(!cache.is_exhausted(&Page::Metrics, &scope, at(122)));
        // The page of another scope is written at once, and is kept for longer.
        cache.keep(&html("b"), &Scope::All, &reply, at(122), at(124));
        assert!(cache.is_exhausted(&html("c"), &Scope::All, at(159)));
        assert!(!cache.is_exhausted(&html("c"), &Scope::All, at(160)));
        assert!(!cache.is_exhausted(&html("c"), &scope, at(140)));
    }
}
