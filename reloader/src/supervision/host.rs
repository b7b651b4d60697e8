//! Holds what one service shares with the other services or needs from the machine: gates, qdiscs, the SYN counter, and
//! what child processes inherit.

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
    /// Sentences about features that do not work because a capability is missing.
    missing_capabilities: Vec<String>,
    /// The path of this program. The guard of a hold is one of its commands.
    program: PathBuf,
    /// The limits, the signal mask and the descriptors that every child process gets.
    inheritance: Inheritance,
    qdiscs: SharedQdiscs,
    /// The SYN counter. It is loaded once, when SYNs are to be counted: otherwise each reload would take longer by its
    /// load time.
    counter: Option<SynCounter>,
}

impl Host {
    /// Keeps the facts that the daemon found out about this machine at its start.
    pub(crate) fn new(
        gates: Gates,
        missing_capabilities: Vec<String>,
        inheritance: Inheritance,
        qdiscs: SharedQdiscs,
    ) -> Host {
        // This path refers to the same file as long as this process lives, even if a package manager replaces the
        // program.
        let program = PathBuf::from("/proc/self/exe");
        Host { gates, missing_capabilities, program, inheritance, qdiscs, counter: None }
    }

    /// The gates that can hold or steer SYNs on this machine.
    pub(crate) fn gates(&self) -> &Gates {
        &self.gates
    }

    /// Sentences about features that do not work because a capability is missing.
    pub(crate) fn missing_capabilities(&self) -> &[String] {
        &self.missing_capabilities
    }

    /// The path of this program. The guard of a hold is one of its commands.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// The limits, the signal mask and the descriptors that every child process gets.
    pub(crate) fn inheritance(&self) -> &Inheritance {
        &self.inheritance
    }

    /// Asks for the qdiscs that holds by `backend` need on the devices between reloads, for the service with this name.
    ///
    /// # Errors
    /// If the qdiscs could not be installed. Each hold then installs them itself.
    pub(super) async fn need_qdiscs(
        &self,
        service: &str,
        backend: Option<Backend>,
        registry: HoldRegistry,
    ) -> io::Result<()> {
        self.qdiscs.need(service, backend, registry).await
    }

    /// Loads the SYN counter if it is not loaded.
    pub(super) async fn load_counter(&mut self) -> Result<(), CounterError> {
        let counter = self.take_counter().await?;
        self.counter = Some(counter);
        Ok(())
    }

    /// Lends the SYN counter to a reload. Loads it first if it is not loaded.
    pub(super) async fn take_counter(&mut self) -> Result<SynCounter, CounterError> {
        match self.counter.take() {
            Some(counter) => Ok(counter),
            None => run_blocking(SynCounter::load).await,
        }
    }

    /// Takes the SYN counter back.
    pub(super) fn give_back_counter(&mut self, counter: SynCounter) {
        self.counter = Some(counter);
    }
}
