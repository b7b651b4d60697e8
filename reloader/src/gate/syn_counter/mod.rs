//! Counts the SYNs that arrive for watched addresses. A tc program counts them. It is in the packet path only from [`SynCounter::attach`] to
//! [`SynCounter::detach`].
//!
//! A SYN is counted once, on the device that hands it to IP ([`receivers`]). Devices below that one, such as the ports of a bridge, do not count
//! it again. Each retransmission counts as a SYN. The counter misses SYNs on devices that come up after `attach`. It misses SYNs in IPsec
//! transport mode, because the kernel decrypts the packet after the program has run. It misses SYNs that a rule delivers to this host although
//! the routing tables do not (TPROXY by mark).

use std::net::SocketAddr;

use aya::Ebpf;
use aya::maps::{PerCpuHashMap, PerCpuValues};
use aya::programs::SchedClassifier;
use aya::util::nr_cpus;
use reloader_ebpf::{SynKey, syn_key};

use super::attachment::{Attachment, COUNTER};
use super::failures::{Failures, joined};
use super::programs::{self, OBJECT, ProgramsError, SYN_PROGRAM, listened_addresses};
use crate::kernel::bpf::{self, MapMemory};
use crate::kernel::devices::{Device, receivers};
use crate::kernel::tc::Direction;

mod error;
mod stale;
#[cfg(test)]
mod tests;

pub use super::attachment::Hook;
pub use error::CounterError;
pub use stale::remove_stale;

/// The name of the map.
const SYNS: &str = "SYNS";

/// A listener whose SYNs are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watched {
    /// The listener's address. 0.0.0.0 and `::` stand for any address of the host.
    pub address: SocketAddr,
    /// Whether an IPv6 listener refuses IPv4 (IPV6_V6ONLY). Without it, `::` stands for any address of both families.
    pub v6only: bool,
}

/// What was counted between attach and detach.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SynCounts {
    /// All SYNs for watched addresses.
    pub seen: u64,
    /// The SYNs of each watched address, in the order that was given to `attach`. Two listeners of one address (a reuseport group) share
    /// their SYNs, and each is given all of them. So the sum can be more than `seen`.
    pub each: Vec<u64>,
}

/// The counter. It is loaded once, and can be attached any number of times.
pub struct SynCounter {
    ebpf: Ebpf,
    hook: Option<Hook>,
    attachments: Vec<Attachment>,
    watched: Vec<Watched>,
}

impl SynCounter {
    /// Loads the program into the kernel, without attaching it.
    ///
    /// # Errors
    /// Where bpf(2) is denied or missing, where the kernel refuses the program, and where the object was built for another
    /// version of this program.
    pub fn load() -> Result<Self, CounterError> {
        Self::load_for(None)
    }

    /// As [`load`](Self::load), with the way of attaching given. Without it, TCX is tried first.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_for(hook: Option<Hook>) -> Result<Self, CounterError> {
        let ebpf = bpf::with_memlock_restored(load)?;
        Ok(Self { ebpf, hook, attachments: Vec::new(), watched: Vec::new() })
    }

    /// Starts counting on the devices that hand packets to IP. `devices` are all devices of the calling thread's network namespace. A
    /// device that has vanished meanwhile is passed over.
    ///
    /// # Errors
    /// Where a device refuses the program, or where more addresses are watched than the map has room for. Nothing stays attached then.
    pub fn attach(&mut self, devices: &[Device], watched: &[Watched]) -> Result<(), CounterError> {
        self.detach()?;
        match self.watch(watched).and_then(|()| self.attach_all(devices)) {
            Ok(()) => Ok(()),
            Err(error) => Err(joined(error, self.remove_all())),
        }
    }

    /// Stops counting and removes everything from the packet path.
    ///
    /// # Errors
    /// Where something could not be removed, or the counts cannot be read. Everything else is removed then.
    pub fn detach(&mut self) -> Result<SynCounts, CounterError> {
        let mut failures = self.take_off();
        let counts = failures.note(self.read());
        self.forget();
        failures.into_result(counts.unwrap_or_default())
    }

    /// Undoes an attempt to attach. Returns what failed.
    fn remove_all(&mut self) -> Option<CounterError> {
        let failures = self.take_off();
        self.watched.clear();
        self.forget();
        failures.into_error()
    }

    fn take_off(&mut self) -> Failures<CounterError> {
        let detached = self.attachments.drain(..).map(Attachment::remove);
        detached.filter_map(Result::err).map(CounterError::detach).collect()
    }

    fn attach_all(&mut self, devices: &[Device]) -> Result<(), CounterError> {
        let program = program(&mut self.ebpf)?;
        for device in receivers(devices) {
            let made = Attachment::attach(program, &mut self.hook, device, Direction::Ingress, COUNTER);
            self.attachments.extend(made.map_err(CounterError::attach)?);
        }
        Ok(())
    }

    fn watch(&mut self, watched: &[Watched]) -> Result<(), CounterError> {
        let cpus = nr_cpus().map_err(|(file, error)| ProgramsError::Map { what: file, source: error })?;
        let mut map = self.map()?;
        let mut memory = MapMemory::new();
        for key in watched.iter().flat_map(keys) {
            memory
                .insert(|| map.insert(key, PerCpuValues::try_from(vec![0_u64; cpus])?, 0))
                .map_err(|error| CounterError::watching(SYNS, watched.len(), error))?;
        }
        self.watched = watched.to_vec();
        Ok(())
    }

    fn read(&mut self) -> Result<SynCounts, CounterError> {
        let watched = std::mem::take(&mut self.watched);
        let map = self.map()?;
        let mut counts = SynCounts::default();
        let mut seen = std::collections::HashMap::new();
        for listener in &watched {
            let mut of_listener = 0;
            for key in keys(listener) {
                let values = map.get(&key, 0).map_err(|error| ProgramsError::map(SYNS, error))?;
                let sum: u64 = values.iter().sum();
                seen.insert(key, sum);
                of_listener += sum;
            }
            counts.each.push(of_listener);
        }
        counts.seen = seen.values().sum();
        Ok(counts)
    }

    /// Empties the map. An `attach` that failed half way may have added keys.
    fn forget(&mut self) {
        if let Ok(mut map) = self.map() {
            let keys: Vec<SynKey> = map.keys().flatten().collect();
            for key in keys {
                let _ = map.remove(&key);
            }
        }
    }

    fn map(&mut self) -> Result<PerCpuHashMap<&mut aya::maps::MapData, SynKey, u64>, CounterError> {
        Ok(programs::map(&mut self.ebpf, SYNS)?)
    }
}

impl Drop for SynCounter {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            log::error!("{error}");
        }
    }
}

fn load() -> Result<Ebpf, ProgramsError> {
    let mut ebpf = programs::load(OBJECT, |_| {})?;
    program(&mut ebpf)?.load().map_err(|error| ProgramsError::from_error(&error))?;
    Ok(ebpf)
}

fn program(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier, ProgramsError> {
    programs::program(ebpf, SYN_PROGRAM)
}

/// The keys that the program looks up for packets to this listener.
fn keys(watched: &Watched) -> Vec<SynKey> {
    let addresses = listened_addresses(watched.address.ip(), watched.v6only);
    addresses.into_iter().map(|address| syn_key(address, watched.address.port())).collect()
}
