//! Follows the worker of a HAProxy that runs under its own unit.

use std::time::Instant;

use super::Supervisor;
use crate::haproxy::binds::Binds;
use crate::process;
use crate::sockets::custody::Followed;

impl Supervisor {
    /// The companion's worker is not where it was seen last, or there is none, and it is time to look for another.
    pub(crate) fn misses_its_worker(&mut self) -> bool {
        let custody = self.custody();
        let missing = match self.serving() {
            Some(serving) => {
                let stays = |inode| custody.owner(inode).is_some_and(|owner| process::socket_at(owner) == Some(inode));
                !serving.sentinel.map_or_else(|| custody.is_still_owned(), stays)
            }
            None => true,
        };
        let hurries = self.serving().is_some() || !custody.is_empty();
        let due = |companion: &mut crate::server::CompanionServer| companion.is_due(missing, hurries, Instant::now());
        self.service.update_companion(due).unwrap_or(false)
    }

    /// The worker of a companion lives and serves no more: its master has retired it.
    pub(crate) fn worker_has_let_go(&self) -> bool {
        !self.server().owns_lifecycle() && !self.custody().is_still_owned()
    }

    /// No worker was found in the place of the missing one. Between two workers a client may find none for a moment, so it takes two looks to
    /// say that none serves.
    pub(crate) fn worker_is_missing(&mut self) {
        if self.service.update_companion(|companion| companion.note_missing()) == Some(true) {
            self.follow_custody();
        }
    }

    /// What the worker closed by itself leaves custody, as it does in supervised mode; a worker that is being retired closes everything, and
    /// that is another matter.
    pub(super) fn follow_closings(&mut self) {
        let Some(serving) = self.serving().filter(|serving| serving.process.try_ended().is_none()) else { return };
        let root = serving.process.pid();
        let mut custody = self.custody().clone();
        let closed = matches!(custody.follow(serving.sentinel, || process::family(root)), Followed::Closed(_));
        if self.service.update_companion(|companion| companion.note_closing(closed)) == Some(true) {
            self.follow_custody();
        }
    }

    /// What the serving worker has read; `None` where that is not known.
    pub(crate) fn set_binds(&mut self, binds: Option<Binds>) {
        self.service.update_companion(|companion| companion.set_binds(binds));
    }

    /// No worker was found, for this reason; `None` where one was.
    pub(crate) fn set_absent(&mut self, absent: Option<String>) {
        let is_news = self.service.update_companion(|companion| companion.set_absent(absent.clone()));
        if let (Some(true), Some(absent)) = (is_news, absent) {
            log::warn!("{absent}");
        }
    }
}
