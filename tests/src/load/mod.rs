//! Adapts the library's open-loop load generator (`reloader::load`) to tests. Every outcome is kept, what cannot be
//! started panics with a sentence, and an emulated machine gets no higher rate than it sustains.

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
    /// Makes new connections to each target in turn.
    pub fn to<T: Into<Target>>(targets: impl IntoIterator<Item = T>) -> Load {
        let targets = targets.into_iter().map(|target| target.into().0).collect();
        Load { load: library::Load::new(targets), rate: 1000, is_limited: false }
    }

    /// Sets the number of new connections per second. The default is 1,000, and `guest::rate` may lower it.
    pub fn rate(mut self, per_second: u32) -> Load {
        self.rate = per_second;
        self
    }

    /// Limits the number of starts. Without a limit the load continues until `stop`.
    pub fn connections(mut self, limit: u64) -> Load {
        self.load = self.load.connections(limit);
        self.is_limited = true;
        self
    }

    /// Sets how long a connection may take from its start. The default is 10 s.
    pub fn timeout(mut self, timeout: Duration) -> Load {
        self.load = self.load.timeout(timeout);
        self
    }

    /// Uses what else the library's load can do: another exchange, TLS, connections that are kept.
    pub fn with(mut self, change: impl FnOnce(library::Load) -> library::Load) -> Load {
        self.load = change(self.load);
        self
    }

    /// Starts the load on a thread. The first connection is due at once.
    pub fn start(mut self) -> Running {
        self.rate = crate::guest::rate(self.rate);
        self.start_at_full_rate()
    }

    /// Starts the load at its own rate, before it is known what the guest sustains.
    pub(crate) fn start_at_full_rate(self) -> Running {
        crate::limits::raise_open_files();
        let started = self.load.rate(self.rate).start(Vec::new());
        Running { running: started.unwrap_or_else(|error| panic!("{error}")) }
    }

    /// Starts a load that has a limit, and waits for every connection.
    pub fn run(self) -> Outcomes {
        assert!(self.is_limited, "`run` needs a load with a number of connections");
        self.start().wait()
    }
}

/// A running load. When it is dropped without `stop`, it starts no further connection and is waited for.
pub struct Running {
    running: library::RunningLoad<Vec<Outcome>>,
}

impl Running {
    /// The number of connections started so far.
    pub fn started(&self) -> u64 {
        self.running.started()
    }

    /// The number of connections that have ended so far, well or badly.
    pub fn finished(&self) -> u64 {
        self.running.finished()
    }

    /// The number of connections that have failed so far.
    pub fn failed(&self) -> u64 {
        self.running.failed()
    }

    /// Waits until this many connections have been started. With it a test places an event in the middle of a load.
    pub fn until_started(&self, count: u64) {
        until(Duration::from_secs(300), "the load to get that far", || {
            self.started() >= count || self.running.is_over()
        });
    }

    /// Waits until `more` further connections have been started.
    pub fn until_further(&self, more: u64) {
        self.until_started(self.started() + more);
    }

    /// Starts no further connection, and waits for the open ones, each at most its timeout.
    pub fn stop(self) -> Outcomes {
        outcomes(self.running.stop())
    }

    /// Waits for a load that ends by itself.
    pub fn wait(self) -> Outcomes {
        outcomes(self.running.wait())
    }
}

fn outcomes(result: Result<library::FinishedLoad<Vec<Outcome>>, library::LoadError>) -> Outcomes {
    result.unwrap_or_else(|error| panic!("{error}")).into()
}

/// A span of time with a name, from its creation to `end`.
pub struct Span {
    label: String,
    from: Instant,
}

impl Span {
    /// Begins a span.
    pub fn begin(label: impl Into<String>) -> Span {
        Span { label: label.into(), from: Instant::now() }
    }

    /// Ends the span and gives its window, for `Outcomes::by_window`.
    pub fn end(self) -> Window {
        Window { label: self.label, from: self.from, to: Instant::now() }
    }
}
