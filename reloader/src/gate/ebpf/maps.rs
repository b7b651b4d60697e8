//! The maps of a hold. Each process that has their descriptors uses them in the same way.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, RingBuf};
use reloader_ebpf::{HeldKey, control, count};

use super::error::EbpfError;
use super::timing::SETTLING_LIMIT;
use crate::gate::contract::LEASE;
use crate::gate::programs::ProgramsError;
use crate::kernel::bpf::MapMemory;
use crate::kernel::clock::monotonic_ns;

const HELD: &str = "HELD";
const CONTROL: &str = "CONTROL";
const COUNTS: &str = "COUNTS";
/// The map whose size is the hold's capacity.
pub(super) const RING: &str = "RING";

/// The names of the maps, in the order of their descriptors.
const NAMES: [&str; Maps::NUMBER] = [HELD, CONTROL, COUNTS, RING];

/// The maps of a hold.
pub(super) struct Maps {
    descriptors: Vec<OwnedFd>,
    held: HashMap<MapData, HeldKey, u32>,
    control: Array<MapData, u64>,
    counts: PerCpuArray<MapData, u64>,
    pub(super) ring: RingBuf<MapData>,
}

impl Maps {
    /// How many maps there are.
    pub(super) const NUMBER: usize = 4;

    /// The maps of a loaded object.
    pub(super) fn from_ebpf(ebpf: &mut Ebpf) -> Result<Self, EbpfError> {
        let mut descriptors = Vec::new();
        for what in NAMES {
            let map = ebpf.take_map(what).ok_or(ProgramsError::Damaged { what })?;
            let (Map::HashMap(map) | Map::Array(map) | Map::PerCpuArray(map) | Map::RingBuf(map)) = map else {
                return Err(ProgramsError::Damaged { what }.into());
            };
            descriptors.push(map.fd().as_fd().try_clone_to_owned().map_err(|source| EbpfError::Map { what, source })?);
        }
        Self::open(descriptors)
    }

    /// The maps from their descriptors, in the order of [`descriptors`](Self::descriptors).
    pub(super) fn open(descriptors: Vec<OwnedFd>) -> Result<Self, EbpfError> {
        let [held, control, counts, ring] = descriptors.as_slice() else {
            return Err(EbpfError::handover("it has too few maps"));
        };
        Ok(Self {
            held: HashMap::try_from(open(HELD, held)?).map_err(|error| EbpfError::map(HELD, error))?,
            control: Array::try_from(open(CONTROL, control)?).map_err(|error| EbpfError::map(CONTROL, error))?,
            counts: PerCpuArray::try_from(open(COUNTS, counts)?).map_err(|error| EbpfError::map(COUNTS, error))?,
            ring: RingBuf::try_from(open(RING, ring)?).map_err(|error| EbpfError::map(RING, error))?,
            descriptors,
        })
    }

    pub(super) fn descriptors(&self) -> &[OwnedFd] {
        &self.descriptors
    }

    /// Opens the ring again. An open ring knows only of records that this process has taken out.
    pub(super) fn reopen_ring(&mut self) -> Result<(), EbpfError> {
        let [.., ring] = self.descriptors.as_slice() else { return Ok(()) };
        self.ring = RingBuf::try_from(open(RING, ring)?).map_err(|error| EbpfError::map(RING, error))?;
        Ok(())
    }

    /// Sets the mark by which the programs know delivered SYNs.
    pub(super) fn set_mark(&mut self, mark: u32) -> Result<(), EbpfError> {
        self.control.set(control::MARK, u64::from(mark), 0).map_err(|error| EbpfError::map(CONTROL, error))
    }

    /// Extends the lease to [`LEASE`] from now.
    pub(super) fn renew_lease(&mut self) -> Result<(), EbpfError> {
        self.set_deadline(control::LEASE, LEASE)
    }

    /// Adds keys with their verdicts. The programs obey them from then on.
    pub(super) fn hold(&mut self, keys: &[(HeldKey, u32)]) -> Result<(), EbpfError> {
        let mut memory = MapMemory::new();
        keys.iter()
            .try_for_each(|(key, verdict)| memory.insert(|| self.held.insert(key, verdict, 0)))
            .map_err(|error| EbpfError::map(HELD, error))
    }

    /// Lets all SYNs pass that the programs see from now on, and makes the programs settle handshakes.
    pub(super) fn let_pass(&mut self) -> Result<(), EbpfError> {
        self.set_deadline(control::SETTLING, SETTLING_LIMIT)
    }

    fn set_deadline(&mut self, index: u32, time: Duration) -> Result<(), EbpfError> {
        let end = monotonic_ns().saturating_add(time.as_nanos() as u64);
        self.control.set(index, end, 0).map_err(|error| EbpfError::map(CONTROL, error))
    }

    /// How many SYNs were held, were dropped, and passed a lapsed lease.
    pub(super) fn counts(&self) -> Result<[u64; 3], EbpfError> {
        Ok([self.count(count::HELD)?, self.count(count::DROPPED)?, self.count(count::LAPSED)?])
    }

    /// One of the counts of [`count`], for all CPUs together.
    pub(super) fn count(&self, index: u32) -> Result<u64, EbpfError> {
        let values = self.counts.get(&index, 0).map_err(|error| EbpfError::map(COUNTS, error))?;
        Ok(values.iter().sum())
    }
}

fn open(what: &'static str, descriptor: &OwnedFd) -> Result<Map, EbpfError> {
    let descriptor = descriptor.try_clone().map_err(|source| EbpfError::Map { what, source })?;
    MapData::from_fd(descriptor).and_then(Map::from_map_data).map_err(|error| EbpfError::map(what, error))
}

/// How long ago `arrived` was, in nanoseconds of CLOCK_MONOTONIC, which is the clock of the programs.
pub(super) fn since(arrived: u64) -> Duration {
    Duration::from_nanos(monotonic_ns().saturating_sub(arrived))
}
