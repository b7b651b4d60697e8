//! The library's open-loop load generator (`reloader::load`), as tests want it: every outcome is kept, what cannot be started
//! panics with a sentence, and an emulated machine is asked for no more than it carries.

mod outcomes;
mod target;

use std::time::{Duration, Instant};

use reloader::load as library;

use crate::poll::until;

pub use library::{Failure, Outcome, Summary};
pub use outcomes::{Outcomes, Window};
pub use target::Target;

/// A load that has not been started.
pub struct Load {
    load: library::Load,
    rate: u32,
    is_limited: bool,
}

impl Load {
    /// New connections go to each target in turn.
    pub fn to<T: Into<Target>>(targets: impl IntoIterator<Item = T>) -> Load {
        let targets = targets.into_iter().map(|target| target.into().0).collect();
        Load { load: library::Load::new(targets), rate: 1000, is_limited: false }
    }

    /// New connections per second; 1,000 unless told, and never more than `guest::rate` allows.
    pub fn rate(mut self, per_second: u32) -> Load {
        self.rate = per_second;
        self
    }

    /// Start no more than this many; without it the load goes on until `stop`.
    pub fn connections(mut self, limit: u64) -> Load {
        self.load = self.load.connections(limit);
        self.is_limited = true;
        self
    }

    /// How long a connection may take from its start; 10 s unless told.
    pub fn timeout(mut self, timeout: Duration) -> Load {
        self.load = self.load.timeout(timeout);
        self
    }

    /// Another exchange, TLS, connections that are kept: what else the library's load can do.
    pub fn with(mut self, change: impl FnOnce(library::Load) -> library::Load) -> Load {
        self.load = change(self.load);
        self
    }

    /// Start the thread. The first connection is due at once.
    pub fn start(mut self) -> Running {
        self.rate = crate::guest::rate(self.rate);
        self.start_unlimited()
    }

    /// Where what a guest carries is not known yet.
    pub(crate) fn start_unlimited(self) -> Running {
        crate::limits::raise_open_files();
        let started = self.load.rate(self.rate).start(Vec::new());
        Running { running: started.unwrap_or_else(|error| panic!("{error}")) }
    }

    /// Start, and wait for every connection of a load that has a limit.
    pub fn run(self) -> Outcomes {
        assert!(self.is_limited, "a load that is waited for needs a number of connections");
        self.start().wait()
    }
}

/// A load under way. Dropped without `stop`, it starts nothing more and is waited for.
pub struct Running {
    running: library::RunningLoad<Vec<Outcome>>,
}

impl Running {
    /// Connections started so far.
    pub fn started(&self) -> u64 {
        self.running.started()
    }

    /// Connections that have ended so far, well or badly.
    pub fn finished(&self) -> u64 {
        self.running.finished()
    }

    /// Connections that have failed so far.
    pub fn failed(&self) -> u64 {
        self.running.failed()
    }

    /// Wait until this many have been started: the way to place an event in the middle of a load.
    pub fn until_started(&self, count: u64) {
        until(Duration::from_secs(300), "the load to get that far", || {
            self.started() >= count || self.running.is_over()
        });
    }

    /// Wait until `more` further connections have been started.
    pub fn until_further(&self, more: u64) {
        self.until_started(self.started() + more);
    }

    /// Start nothing more, wait for what is open (each at most its timeout).
    pub fn stop(self) -> Outcomes {
        ended(self.running.stop())
    }

    /// Wait for a load that ends by itself.
    pub fn wait(self) -> Outcomes {
        ended(self.running.wait())
    }
}

fn ended(ended: Result<library::FinishedLoad<Vec<Outcome>>, library::LoadError>) -> Outcomes {
    ended.unwrap_or_else(|error| panic!("{error}")).into()
}

/// A span of time with a name, begun now and ended by `end`.
pub struct Span {
    label: String,
    from: Instant,
}

impl Span {
    /// Begin.
    pub fn begin(label: impl Into<String>) -> Span {
        Span { label: label.into(), from: Instant::now() }
    }

    /// End, and give the window for `Outcomes::by_window`.
    pub fn end(self) -> Window {
        Window { label: self.label, from: self.from, to: Instant::now() }
    }
}
