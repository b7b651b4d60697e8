//! Follows the worker of a HAProxy that runs under its own unit.

use std::time::Instant;

use super::Supervisor;
use crate::haproxy::binds::Binds;
use crate::process;
use crate::sockets::custody::Followed;

impl Supervisor {
    /// Whether it is time to look for a worker of the companion: there is none, or the worker is no longer where it was
    /// seen last.
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

    /// Whether the companion's worker has closed its listeners. Its master has then retired it.
    pub(crate) fn worker_has_let_go(&self) -> bool {
        !self.server().owns_lifecycle() && !self.custody().is_still_owned()
    }

    /// Notes that no worker was found in place of the missing one. For a moment there may be no worker between two. Only
    /// the second such check counts as a service without a worker.
    pub(crate) fn worker_is_missing(&mut self) {
        if self.service.update_companion(|companion| companion.note_missing()) == Some(true) {
            self.follow_custody();
        }
    }

    /// Removes from custody the listeners that the worker closed by itself, as in supervised mode. A worker that is being
    /// retired closes all its listeners. This method does not handle that case.
    pub(super) fn follow_closings(&mut self) {
        let Some(serving) = self.serving().filter(|serving| serving.process.try_ended().is_none()) else { return };
        let root = serving.process.pid();
        let mut custody = self.custody().clone();
        let closed = matches!(custody.follow(serving.sentinel, || process::family(root)), Followed::Closed(_));
        if self.service.update_companion(|companion| companion.note_closing(closed)) == Some(true) {
            self.follow_custody();
        }
    }

    /// Sets the binds that the serving worker has read. `None` if they are unknown.
    pub(crate) fn set_binds(&mut self, binds: Option<Binds>) {
        self.service.update_companion(|companion| companion.set_binds(binds));
    }

    /// Sets the reason why no worker was found. `None` if one was found.
    pub(crate) fn set_absent(&mut self, absent: Option<String>) {
        let is_news = self.service.update_companion(|companion| companion.set_absent(absent.clone()));
        if let (Some(true), Some(absent)) = (is_news, absent) {
            log::warn!("{absent}");
        }
    }
}
