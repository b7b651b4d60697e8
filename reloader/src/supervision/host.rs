//! What one service shares with the others, or needs of this machine: gates, qdiscs, the SYN counter, and what its children get.

use std::io;
use std::path::{Path, PathBuf};

use super::SharedQdiscs;
use crate::gate::hold::{Backend, Gates, HoldRegistry};
use crate::gate::syn_counter::{CounterError, SynCounter};
use crate::process::run_blocking;
use crate::sys::Inheritance;

/// The machine, as one service sees it.
pub(crate) struct Host {
    gates: Gates,
    /// What does not work because a capability is missing, in sentences.
    missing_capabilities: Vec<String>,
    /// This program, of which the guard of a hold is a command.
    program: PathBuf,
    /// What every child gets.
    inheritance: Inheritance,
    qdiscs: SharedQdiscs,
    /// Loaded once, when SYNs are to be counted: its load time would else be part of each reload.
    counter: Option<SynCounter>,
}

impl Host {
    /// What was found out about this machine when the daemon started.
    pub(crate) fn new(
        gates: Gates,
        missing_capabilities: Vec<String>,
        inheritance: Inheritance,
        qdiscs: SharedQdiscs,
    ) -> Host {
        // The same file as long as this process lives, though a package manager may replace its path.
        let program = PathBuf::from("/proc/self/exe");
        Host { gates, missing_capabilities, program, inheritance, qdiscs, counter: None }
    }

    /// What can hold or steer SYNs here.
    pub(crate) fn gates(&self) -> &Gates {
        &self.gates
    }

    /// What does not work because a capability is missing, in sentences.
    pub(crate) fn missing_capabilities(&self) -> &[String] {
        &self.missing_capabilities
    }

    /// This program, of which the guard of a hold is a command.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// What every child gets.
    pub(crate) fn inheritance(&self) -> &Inheritance {
        &self.inheritance
    }

    /// Asks for what holds by `backend` need on the devices between reloads, for the service called `service`.
    ///
    /// # Errors
    /// Where it could not be put there: each hold then puts it there for itself.
    pub(super) async fn need_qdiscs(
        &self,
        service: &str,
        backend: Option<Backend>,
        registry: HoldRegistry,
    ) -> io::Result<()> {
        self.qdiscs.need(service, backend, registry).await
    }

    /// Loads the SYN counter, unless it is there.
    pub(super) async fn load_counter(&mut self) -> Result<(), CounterError> {
        let counter = self.take_counter().await?;
        self.counter = Some(counter);
        Ok(())
    }

    /// Lends the SYN counter to a reload. It is loaded where it is not there.
    pub(super) async fn take_counter(&mut self) -> Result<SynCounter, CounterError> {
        match self.counter.take() {
            Some(counter) => Ok(counter),
            None => run_blocking(SynCounter::load).await,
        }
    }

    /// Takes it back.
    pub(super) fn give_back_counter(&mut self, counter: SynCounter) {
        self.counter = Some(counter);
    }
}
