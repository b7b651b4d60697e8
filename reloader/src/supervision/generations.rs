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
    /// The generation that is started and not yet proven.
    starting: Option<Generation>,
    /// The retired generations, oldest first.
    draining: Vec<Generation>,
    next_number: u64,
    /// How long the last start took.
    last_start: Option<Duration>,
    /// The endpoints on which a generation has served.
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
    /// The generation that serves.
    pub(crate) fn serving(&self) -> Option<&Generation> {
        self.serving.as_ref()
    }

    /// The generation that is started and not yet proven.
    pub(crate) fn starting(&self) -> Option<&Generation> {
        self.starting.as_ref()
    }

    /// The generations that drain, oldest first.
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

    /// Whether the serving generation lives at this moment. During a reload the loop does not notice that a generation
    /// has ended.
    pub(crate) fn is_served(&self) -> bool {
        self.serving.as_ref().is_some_and(|serving| serving.process.try_ended().is_none())
    }

    /// The endpoints on which a generation has served, or listens while it drains.
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

    /// Makes `number` the number of the next generation.
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

    /// Makes `new` the serving generation. The generation that served before drains.
    pub(super) fn promote(&mut self, new: Generation) {
        self.starting = None;
        self.served.extend(new.listeners.iter().map(|owned| owned.listener.endpoint.clone()));
        if let Some(mut old) = self.serving.replace(new) {
            old.retired = Some(Instant::now());
            self.draining.push(old);
        }
    }

    /// Adds a draining generation. `retired` is not set here, because an earlier daemon may have retired it.
    pub(super) fn add_draining(&mut self, generation: Generation) {
        self.draining.push(generation);
    }

    /// Makes the draining generation with this root process serve again. False if there is none.
    pub(super) fn reinstate(&mut self, process: &Handle) -> bool {
        let Some(place) = self.draining.iter().position(|generation| generation.process.pid() == process.pid()) else {
            return false;
        };
        let mut generation = self.draining.remove(place);
        generation.retired = None;
        self.serving = Some(generation);
        true
    }

    /// Removes and returns the draining generations that have ended.
    pub(super) fn take_ended(&mut self) -> Vec<Generation> {
        let has_ended = |generation: &mut Generation| generation.process.try_ended().is_some();
        self.draining.extract_if(.., has_ended).collect()
    }

    /// Forgets a draining generation with this root process.
    pub(super) fn forget_draining(&mut self, pid: u32) {
        self.draining.retain(|draining| draining.process.pid() != pid);
    }

    /// Calls `change` for the serving generation, if there is one.
    pub(super) fn update_serving<T>(&mut self, change: impl FnOnce(&mut Generation) -> T) -> Option<T> {
        self.serving.as_mut().map(change)
    }

    /// Calls `change` for the starting generation, if there is one.
    pub(super) fn update_starting<T>(&mut self, change: impl FnOnce(&mut Generation) -> T) -> Option<T> {
        self.starting.as_mut().map(change)
    }

    /// Calls `change` for each draining generation.
    pub(super) fn update_draining(&mut self, change: impl FnMut(&mut Generation)) {
        self.draining.iter_mut().for_each(change);
    }
}
