//! Keeps the generations of one service: the one that serves, the one that starts, and those that drain.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::Generation;
use super::records::{GenerationRecord, State};
use crate::model::listener::Endpoint;
use crate::process::Handle;

/// The generations of one service.
#[derive(Debug)]
pub(crate) struct Generations {
    serving: Option<Generation>,
    /// Started and not proven.
    starting: Option<Generation>,
    /// Retired, oldest first.
    draining: Vec<Generation>,
    next_number: u64,
    /// How long the last start took.
    last_start: Option<Duration>,
    /// Where one of them has served.
    served: HashSet<Endpoint>,
}

impl Default for Generations {
    fn default() -> Generations {
        Generations {
            serving: None,
            starting: None,
            draining: Vec::new(),
            next_number: 1,
            last_start: None,
            served: HashSet::new(),
        }
    }
}

impl Generations {
    /// The one that serves.
    pub(crate) fn serving(&self) -> Option<&Generation> {
        self.serving.as_ref()
    }

    /// The one that is started and not proven.
    pub(crate) fn starting(&self) -> Option<&Generation> {
        self.starting.as_ref()
    }

    /// Those that drain, oldest first.
    pub(crate) fn draining(&self) -> &[Generation] {
        &self.draining
    }

    /// How long the last start took.
    pub(crate) fn last_start(&self) -> Option<Duration> {
        self.last_start
    }

    /// The number of the next generation.
    pub(crate) fn next_number(&self) -> u64 {
        self.next_number
    }

    /// Whether the serving generation lives at this moment: the loop hears of an end only when it is back from a reload.
    pub(crate) fn is_served(&self) -> bool {
        self.serving.as_ref().is_some_and(|serving| serving.process.try_ended().is_none())
    }

    /// Where one has served, or listens while it drains.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = Endpoint> {
        let draining = self.draining.iter().flat_map(|generation| &generation.listeners);
        draining.map(|owned| owned.listener.endpoint.clone()).chain(self.served.iter().cloned())
    }

    /// What is written into the record of running generations.
    pub(super) fn records(&self) -> Vec<GenerationRecord> {
        let draining = self.draining.iter().map(|generation| generation.record(State::Draining));
        let serving = self.serving.iter().map(|generation| generation.record(State::Serving));
        let starting = self.starting.iter().map(|generation| generation.record(State::Starting));
        draining.chain(serving).chain(starting).collect()
    }

    /// Takes the number of the next generation.
    pub(super) fn take_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }

    /// The next number is `number`.
    pub(super) fn count_from(&mut self, number: u64) {
        self.next_number = number.max(1);
    }

    pub(super) fn set_last_start(&mut self, time: Option<Duration>) {
        self.last_start = time;
    }

    pub(super) fn begin_start(&mut self, generation: Generation) {
        self.starting = Some(generation);
    }

    pub(super) fn take_starting(&mut self) -> Option<Generation> {
        self.starting.take()
    }

    pub(super) fn take_serving(&mut self) -> Option<Generation> {
        self.serving.take()
    }

    /// Makes `new` the serving generation, and the one before a draining one.
    pub(super) fn promote(&mut self, new: Generation) {
        self.starting = None;
        self.served.extend(new.listeners.iter().map(|owned| owned.listener.endpoint.clone()));
        if let Some(mut old) = self.serving.replace(new) {
            old.retired = Some(Instant::now());
            self.draining.push(old);
        }
    }

    /// Adds one that drains. `retired` is not set here: an earlier daemon may have retired it.
    pub(super) fn add_draining(&mut self, generation: Generation) {
        self.draining.push(generation);
    }

    /// The draining generation with this root process serves again. False where there is none.
    pub(super) fn reinstate(&mut self, process: &Handle) -> bool {
        let Some(place) = self.draining.iter().position(|generation| generation.process.pid() == process.pid()) else {
            return false;
        };
        let mut generation = self.draining.remove(place);
        generation.retired = None;
        self.serving = Some(generation);
        true
    }

    /// Takes out the draining generations that have ended.
    pub(super) fn take_ended(&mut self) -> Vec<Generation> {
        let has_ended = |generation: &mut Generation| generation.process.try_ended().is_some();
        self.draining.extract_if(.., has_ended).collect()
    }

    /// Forgets a draining generation with this root process.
    pub(super) fn forget_draining(&mut self, pid: u32) {
        self.draining.retain(|draining| draining.process.pid() != pid);
    }

    /// Changes what is known of the serving generation.
    pub(super) fn update_serving<T>(&mut self, change: impl FnOnce(&mut Generation) -> T) -> Option<T> {
        self.serving.as_mut().map(change)
    }

    /// Changes what is known of the starting generation.
    pub(super) fn update_starting<T>(&mut self, change: impl FnOnce(&mut Generation) -> T) -> Option<T> {
        self.starting.as_mut().map(change)
    }

    /// Changes what is known of each draining generation.
    pub(super) fn update_draining(&mut self, change: impl FnMut(&mut Generation)) {
        self.draining.iter_mut().for_each(change);
    }
}
