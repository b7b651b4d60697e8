//! One of the two steering programs, in the kernel with its maps.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Array, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues, ReusePortSockArray};
use aya::programs::SkReuseport;
use aya::util::nr_cpus;
use reloader_ebpf::{HeldKey, Steered, left, span};

use super::error::SteerError;
use super::group::{Counts, Left};
use crate::gate::programs::{self, ProgramsError, STEER_OBJECT, STEER_PROGRAM};
use crate::kernel::bpf::{self, MapMemory, errno};
use crate::kernel::clock;

/// The names of the maps.
const GROUPS: &str = "GROUPS";
const SOCKETS: &str = "SOCKETS";
const LEASE: &str = "LEASE";
const LEFT: &str = "LEFT";

/// A steering program with its maps.
pub(super) struct LoadedProgram {
    ebpf: Ebpf,
    name: &'static str,
    /// Memory for the entries of all groups of one reload.
    memory: MapMemory,
}

impl LoadedProgram {
    /// Loads the program with this name.
    pub(super) fn load(name: &'static str) -> Result<LoadedProgram, ProgramsError> {
        let ebpf = bpf::with_memlock_restored(|| {
            let mut ebpf = programs::load(STEER_OBJECT, |_| {})?;
            let program: &mut SkReuseport = programs::program(&mut ebpf, name)?;
            program.load().map_err(|error| ProgramsError::from_error(&error))?;
            Ok(ebpf)
        })?;
        Ok(LoadedProgram { ebpf, name, memory: MapMemory::new() })
    }

    /// Whether it moves what is queued on a closed listener.
    pub(super) fn migrates(&self) -> bool {
        self.name == STEER_PROGRAM
    }

    pub(super) fn program(&mut self) -> Result<&mut SkReuseport, ProgramsError> {
        programs::program(&mut self.ebpf, self.name)
    }

    /// Makes the program steer until `lease` is over, counted from now.
    pub(super) fn set_lease(&mut self, lease: Duration) -> Result<(), ProgramsError> {
        let end = clock::monotonic_ns().saturating_add(lease.as_nanos() as u64);
        let mut map: Array<&mut MapData, u64> = self.map(LEASE)?;
        map.set(0, if lease.is_zero() { 0 } else { end }, 0).map_err(|error| ProgramsError::map(LEASE, error))
    }

    /// Puts the sockets of a group into the array, from index `first` on.
    pub(super) fn set_sockets(
        &mut self,
        address: SocketAddr,
        to: &[Arc<OwnedFd>],
        first: u32,
    ) -> Result<(), SteerError> {
        let refused = |error: MapError| SteerError::Refused {
            address,
            what: "a socket",
            source: errno(&error).map_or_else(|| io::Error::other(error), Into::into),
        };
        let mut sockets: ReusePortSockArray<&mut MapData> = self.map(SOCKETS)?;
        for (index, socket) in (first..).zip(to) {
            sockets.set(index, &**socket, 0).map_err(refused)?;
        }
        Ok(())
    }

    /// Takes sockets out of the array. A socket can be in one array only, so that the next reload needs it. A socket that was closed is
    /// out already.
    pub(super) fn clear_sockets(&mut self, indices: Range<u32>) {
        if let Ok(mut sockets) = self.map::<ReusePortSockArray<&mut MapData>>(SOCKETS) {
            indices.for_each(|index| drop(sockets.clear_index(&index)));
        }
    }

    /// Makes the program steer what has one of these keys to `count` sockets of the array, from index `first` on.
    pub(super) fn add_keys(&mut self, keys: &[HeldKey], first: u32, count: u32) -> Result<(), ProgramsError> {
        let cpus = nr_cpus().map_err(|(what, source)| ProgramsError::Map { what, source })?;
        let value = || PerCpuValues::try_from(vec![[span(first, count), 0, 0]; cpus]);
        let mut memory = std::mem::replace(&mut self.memory, MapMemory::new());
        let mut groups: PerCpuHashMap<&mut MapData, HeldKey, Steered> = self.map(GROUPS)?;
        for key in keys {
            memory.insert(|| groups.insert(key, value()?, 0)).map_err(|error| ProgramsError::map(GROUPS, error))?;
        }
        self.memory = memory;
        Ok(())
    }

    /// Makes the program forget these keys. Those that it does not have are passed over.
    pub(super) fn remove_keys(&mut self, keys: &[HeldKey]) {
        if let Ok(mut groups) = self.map::<PerCpuHashMap<&mut MapData, HeldKey, Steered>>(GROUPS) {
            keys.iter().for_each(|key| drop(groups.remove(key)));
        }
    }

    /// Begins with the groups of another reload.
    pub(super) fn renew_memory(&mut self) {
        self.memory = MapMemory::new();
    }

    /// What became of the connections that have these keys.
    pub(super) fn counts(&mut self, keys: &[HeldKey]) -> Result<Counts, ProgramsError> {
        let map: PerCpuHashMap<&mut MapData, HeldKey, Steered> = self.map(GROUPS)?;
        let mut counts = Counts::default();
        for key in keys {
            let values = map.get(key, 0).map_err(|error| ProgramsError::map(GROUPS, error))?;
            for [_, steered, migrated] in values.iter() {
                counts.steered += steered;
                counts.migrated += migrated;
            }
        }
        Ok(counts)
    }

    /// What the program has left to the kernel since it was loaded.
    pub(super) fn left(&mut self) -> Result<Left, ProgramsError> {
        let map: PerCpuArray<&mut MapData, u64> = self.map(LEFT)?;
        let sum = |kind| map.get(&kind, 0).map(|values| values.iter().sum());
        let refused = |error| ProgramsError::map(LEFT, error);
        let (connections, answers) = (sum(left::CONNECTIONS).map_err(refused)?, sum(left::ANSWERS).map_err(refused)?);
        Ok(Left { connections, answers })
    }

    fn map<'a, M>(&'a mut self, what: &'static str) -> Result<M, ProgramsError>
    where
        M: TryFrom<&'a mut Map, Error = MapError>,
    {
        programs::map(&mut self.ebpf, what)
    }
}
