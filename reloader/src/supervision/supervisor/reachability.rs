//! Follows which listeners clients can reach.

use std::collections::{HashMap, HashSet};

use super::Supervisor;
use crate::haproxy::master::root_of;
use crate::model::listener::Owned;
use crate::process::{BlockingLane, ProcessScope};
use crate::sockets::custody::Custody;
use crate::sockets::inspection::Inspection;
use crate::sockets::reachability::{Subject, Unreachable};
use crate::supervision::reach::{Surroundings, look_in};
use crate::supervision::{Generation, Notice, PathLinks, path_links, sentences};

impl Supervisor {
    /// Looks again which of the present listeners clients reach.
    pub(crate) async fn look_at_reachability(&mut self) {
        let owned = self.present_listeners();
        let subjects = Subject::among(&owned, self.custody());
        let found = self.heartbeat().during(look_in(self.reach.lane(), subjects)).await;
        if found.is_some_and(|found| self.reach.set(found)) {
            self.note_reachability(&owned);
        }
    }

    /// The lane for looks at file systems that a reload waits for.
    pub(crate) fn looks(&self) -> &BlockingLane {
        self.reach.lane()
    }

    /// Why no client reaches a present listener. `None` if one does, as far as is known.
    pub(crate) fn why_unreachable(&self, inode: u64) -> Option<&Unreachable> {
        self.reach.why_not(inode)
    }

    /// Why the next generation is not offered a present listener: it is to bind another socket, which clients reach.
    pub(crate) fn why_bound_again(&self, inode: u64) -> Option<&Unreachable> {
        self.why_unreachable(inode).filter(|why| why.is_healed_by_binding())
    }

    /// The listeners of a new generation that no client reaches now, and those of the old one that none reached before: since then the new
    /// generation may have taken paths over.
    pub(crate) async fn unreachable_now(&self, new: &Inspection) -> HashMap<u64, Unreachable> {
        let subjects = Subject::among(&new.owned, &new.custody);
        let mut found = self.heartbeat().during(look_in(self.reach.lane(), subjects)).await.unwrap_or_default();
        let looked_at: HashSet<u64> = new.owned.iter().map(|owned| owned.listener.inode).collect();
        let before = self.reach.all().filter(|(inode, _)| !looked_at.contains(inode));
        found.extend(before.map(|(inode, why)| (*inode, why.clone())));
        found
    }

    /// Follows it between reloads, beside the loop, and whether another server listens on the same addresses.
    pub(super) fn follow_reachability(&mut self) {
        // A new generation may take paths over, and a reload has looked before it began.
        if self.generations.starting().is_some() {
            return self.reach.forget_look();
        }
        if self.reach.follow(self.surroundings(), self.sockets.custody()) {
            self.note_reachability(&self.present_listeners());
            let foreign = self.reach.foreign().cloned();
            foreign.iter().for_each(|sentence| log::error!("{}: {sentence}", self.name()));
            self.replace_warning(Notice::ForeignListener, foreign);
            self.publish();
        }
    }

    /// The listeners that serve, and the first processes of the generations.
    pub(super) fn surroundings(&self) -> Surroundings {
        let generations = &self.generations;
        let all = generations.serving().into_iter().chain(generations.starting()).chain(generations.draining());
        // A companion's workers have a master, which has other workers.
        let root = |generation: &Generation| match generation.scope {
            ProcessScope::SameProgram => root_of(generation.process.pid()),
            ProcessScope::All => generation.process.pid(),
        };
        let listeners = generations.serving().map(|serving| serving.listeners.clone()).unwrap_or_default();
        Surroundings { listeners, roots: all.map(root).collect() }
    }

    /// Keeps links to unix sockets that the serving generation was passed, as long as a generation drains that may take their paths away.
    pub(crate) fn keep_path_links(&mut self, links: PathLinks) {
        let serving =
            self.serving().map(|serving| serving.listeners.iter().map(|owned| owned.listener.inode).collect());
        let serving: HashSet<u64> = serving.unwrap_or_default();
        self.path_links.absorb(links);
        self.path_links.retain(&serving);
        self.drop_path_links_when_over();
    }

    /// A generation drains that may take the path of a passed socket away.
    fn needs_path_links(&self) -> bool {
        self.server().may_take_paths_away() && !self.generations.draining().is_empty()
    }

    /// Puts back the paths of passed sockets that a draining generation has taken away, and waits for it.
    pub(crate) async fn mend_paths(&mut self) {
        if let Some(mend) = self.mending() {
            let mend = move || {
                mend();
                Ok(())
            };
            // A file system that hangs is in the log.
            let _ = self.heartbeat().during(self.reach.lane().run("putting paths back", mend)).await;
        }
    }

    /// Removes the links when no generation drains that may take paths away.
    pub(super) fn drop_path_links_when_over(&mut self) {
        if !self.needs_path_links() {
            self.path_links = PathLinks::default();
        }
    }

    /// Does what [`mend_paths`](Self::mend_paths) does, beside the loop.
    pub(super) fn follow_paths(&self) {
        if let Some(mend) = self.mending() {
            self.reach.lane().begin_if_free(mend);
        }
    }

    fn mending(&self) -> Option<impl FnOnce() + Send + use<>> {
        let (name, pairs) = (self.name().to_owned(), self.path_links.pairs());
        (!pairs.is_empty()).then_some(move || {
            for path in path_links::mend(&pairs) {
                log::warn!("{name}: a retired generation removed {}: it is put back", path.display());
            }
        })
    }

    /// Makes links for generations that an earlier daemon has retired, and that may take paths away.
    pub(crate) fn link_paths_of_adopted(&mut self) {
        if self.needs_path_links() {
            let (links, notes) = PathLinks::new(&self.present_listeners());
            notes.iter().for_each(|note| log::warn!("{}: {note}", self.name()));
            self.keep_path_links(links);
        }
    }

    fn note_reachability(&mut self, owned: &[Owned]) {
        let lost = owned.iter().filter_map(|owned| {
            let listener = &owned.listener;
            Some(format!("{} ({})", listener.endpoint, self.reach.why_not(listener.inode)?))
        });
        let lost: Vec<String> = lost.collect();
        let whys = owned.iter().filter_map(|owned| self.reach.why_not(owned.listener.inode));
        let remedy = sentences::reachability_remedy(self.server().owns_lifecycle(), whys);
        let text = (!lost.is_empty()).then(|| format!("no client reaches {}; {remedy}", lost.join(", ")));
        text.iter().for_each(|text| log::error!("{}: {text}", self.name()));
        self.replace_warning(Notice::Unreachable, text);
    }

    /// Removes from `custody` the sockets that no client reaches and that the next generation can bind again.
    pub(super) fn leave_out_unreachable(&self, custody: &mut Custody) {
        custody.retain(|kept| self.why_bound_again(kept.listener.inode).is_none());
    }
}
