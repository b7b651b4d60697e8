//! Steers the connections of SO_REUSEPORT groups: new ones go to some of a group's sockets only, and, where the kernel migrates
//! (Linux 5.14), what is queued on another goes there when that is closed.
//!
//! The program stands on the group, which belongs to the kernel and to whoever has one of its sockets. It steers until its lease
//! ends; after that the kernel chooses as if there were none, so that a daemon that dies leaves nothing that acts.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Array, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues, ReusePortSockArray};
use aya::programs::SkReuseport;
use aya::util::nr_cpus;
use reloader_ebpf::{HeldKey, MAX_STEERED, Steered, held_key, left, span};
use rustix::io::Errno;
use socket2::SockRef;

use super::programs::{self, ProgramsError, SELECT_PROGRAM, STEER_OBJECT, STEER_PROGRAM, listened_addresses};
use crate::kernel::bpf::{self, MapMemory, errno};
use crate::kernel::clock;
use crate::model::listener::Address;

mod error;
mod trace;

pub use error::SteerError;
pub(crate) use trace::{Trace, clean_up, is_left};

const GROUPS: &str = "GROUPS";
const SOCKETS: &str = "SOCKETS";
const LEASE: &str = "LEASE";
const LEFT: &str = "LEFT";

/// One SO_REUSEPORT group: what is steered, and whereto.
#[derive(Debug)]
pub struct Group<'a> {
    /// Where all of its sockets listen.
    pub address: SocketAddr,
    /// IPv6 without the IPv4 half.
    pub v6only: bool,
    /// The number of the device that they are bound to, 0 for none.
    pub interface: u32,
    /// The sockets that are to get everything.
    pub to: Vec<Arc<OwnedFd>>,
    /// Those that are to get nothing any more.
    pub from: Vec<BorrowedFd<'a>>,
}

/// What became of the connections of one group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// New connections that were steered.
    pub steered: u64,
    /// Connections that moved over from a closed listener.
    pub migrated: u64,
}

/// What was left to the kernel's own choice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Left {
    /// New connections.
    pub connections: u64,
    /// Segments of no connection that may answer a SYN cookie: each began a connection only if the kernel took it for a valid
    /// answer (`SyncookiesRecv`). Those of connections that are closed already are among them.
    pub answers: u64,
}

/// The programs, loaded once, and the groups on which they stand.
pub struct Steer {
    ebpf: Ebpf,
    program: &'static str,
    standing: Vec<AttachedGroup>,
    places: u32,
    trace: Option<Trace>,
    /// For the groups of one reload together.
    map_memory: MapMemory,
}

/// A group that is steered.
struct AttachedGroup {
    address: SocketAddr,
    keys: Vec<HeldKey>,
    /// One of its sockets: what the program is taken off by.
    socket: Arc<OwnedFd>,
}

impl Steer {
    /// Loads the program that this kernel takes: the one that migrates, or the one that only selects.
    ///
    /// # Errors
    /// Where bpf(2) is denied or missing, and where the kernel takes neither.
    pub fn load() -> Result<Steer, SteerError> {
        Ok(Steer::load_one(STEER_PROGRAM).or_else(|_| Steer::load_one(SELECT_PROGRAM))?)
    }

    /// As [`load`](Self::load), without migration: for tests on kernels that migrate.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_selecting() -> Result<Steer, SteerError> {
        Ok(Steer::load_one(SELECT_PROGRAM)?)
    }

    fn load_one(program: &'static str) -> Result<Steer, ProgramsError> {
        let ebpf = bpf::with_memlock_restored(|| {
            let mut ebpf = programs::load(STEER_OBJECT, |_| {})?;
            let loaded: &mut SkReuseport = programs::program(&mut ebpf, program)?;
            loaded.load().map_err(|error| ProgramsError::from_error(&error))?;
            Ok(ebpf)
        })?;
        Ok(Steer { ebpf, program, standing: Vec::new(), places: 0, trace: None, map_memory: MapMemory::new() })
    }

    /// Whether what is queued on a closed listener moves over.
    pub fn migrates(&self) -> bool {
        self.program == STEER_PROGRAM
    }

    /// Steers until `lease` is over, all groups that stand included.
    ///
    /// # Errors
    /// Where the map cannot be written: nothing is steered from then on.
    pub fn renew(&mut self, lease: Duration) -> Result<(), SteerError> {
        let end = clock::monotonic_ns().saturating_add(lease.as_nanos() as u64);
        let mut map: Array<&mut MapData, u64> = self.map(LEASE)?;
        Ok(map.set(0, if lease.is_zero() { 0 } else { end }, 0).map_err(|error| ProgramsError::map(LEASE, error))?)
    }

    /// Keeps a record for as long as a program stands anywhere.
    pub(crate) fn keep(&mut self, trace: Trace) {
        self.trace = Some(trace);
    }

    /// Steers a group. Its place among the groups is returned.
    ///
    /// # Errors
    /// Where the kernel refuses; nothing of the group stays then.
    pub fn add(&mut self, group: &Group<'_>) -> Result<usize, SteerError> {
        let keys = self.keys(group)?;
        let address = group.address;
        let Some(socket) = group.to.first().cloned() else { return Err(SteerError::Apart { address }) };
        if self.standing.iter().any(|standing| standing.keys.iter().any(|key| keys.contains(key))) {
            return Err(SteerError::Ambiguous { address });
        }
        let count = group.to.len() as u32;
        if self.places + count > MAX_STEERED {
            return Err(SteerError::TooMany { address, most: MAX_STEERED });
        }
        let first = self.places;
        self.places += count;
        self.standing.push(AttachedGroup { address, keys, socket });
        let added = self.place(group, first).and_then(|()| self.attach(group));
        if added.is_err()
            && let Some(standing) = self.standing.pop()
        {
            let _ = self.take_off(&standing, &[]);
            self.clear(first..first + count);
        }
        added.map(|()| self.standing.len() - 1)
    }

    /// What became of the connections of a group.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn counts(&mut self, group: usize) -> Result<Counts, SteerError> {
        let keys = self.standing.get(group).map(|standing| standing.keys.clone()).unwrap_or_default();
        let map: PerCpuHashMap<&mut MapData, HeldKey, Steered> = self.map(GROUPS)?;
        let mut counts = Counts::default();
        for key in keys {
            let values = map.get(&key, 0).map_err(|error| ProgramsError::map(GROUPS, error))?;
            for [_, steered, migrated] in values.iter() {
                counts.steered += steered;
                counts.migrated += migrated;
            }
        }
        Ok(counts)
    }

    /// What the programs have left to the kernel's own choice, of all groups since they were loaded.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn left(&mut self) -> Result<Left, SteerError> {
        let map: PerCpuArray<&mut MapData, u64> = self.map(LEFT)?;
        let sum = |kind| map.get(&kind, 0).map(|values| values.iter().sum());
        let refused = |error| ProgramsError::map(LEFT, error);
        let (connections, answers) = (sum(left::CONNECTIONS).map_err(refused)?, sum(left::ANSWERS).map_err(refused)?);
        Ok(Left { connections, answers })
    }

    /// Whether it stands anywhere.
    pub fn is_in_force(&self) -> bool {
        !self.standing.is_empty()
    }

    /// Whether it stands on a group at this address.
    pub(crate) fn stands_at(&self, address: &Address) -> bool {
        self.standing.iter().any(|standing| Address::Inet(standing.address) == *address)
    }

    /// Whether the program still stands on all groups: somebody else may have put another there.
    pub fn stands(&mut self) -> bool {
        let Ok(program) = programs::program::<SkReuseport>(&mut self.ebpf, self.program) else { return false };
        let stands = |standing: &AttachedGroup| {
            SkReuseport::detach(&*standing.socket).is_ok() && program.attach(&*standing.socket).is_ok()
        };
        self.standing.iter().all(stands)
    }

    /// Takes the program off all groups. `others` are further sockets of theirs: through one that does not listen any more it cannot
    /// be taken off.
    ///
    /// # Errors
    /// Where one could not be freed, after all others were.
    pub fn end(&mut self, others: &[Arc<OwnedFd>]) -> Result<(), SteerError> {
        let mut first_error = self.renew(Duration::ZERO).err();
        for standing in std::mem::take(&mut self.standing) {
            if let Err(error) = self.take_off(&standing, others) {
                first_error.get_or_insert(error);
            }
        }
        let places = std::mem::take(&mut self.places);
        self.clear(0..places);
        self.trace = None;
        self.map_memory = MapMemory::new();
        first_error.map_or(Ok(()), Err)
    }

    /// How the program finds the group: it is told the listener itself where the kernel migrates, and else has only the packet.
    fn keys(&self, group: &Group<'_>) -> Result<Vec<HeldKey>, SteerError> {
        let (ip, port) = (group.address.ip(), group.address.port());
        if self.migrates() {
            return Ok(vec![held_key(listened_addresses(ip, true)[0], port, group.interface)]);
        }
        if group.interface != 0 {
            return Err(SteerError::Ambiguous { address: group.address });
        }
        Ok(listened_addresses(ip, group.v6only).into_iter().map(|address| held_key(address, port, 0)).collect())
    }

    fn place(&mut self, group: &Group<'_>, first: u32) -> Result<(), SteerError> {
        let refused = |error: MapError| SteerError::Refused {
            address: group.address,
            what: "a socket",
            source: errno(&error).map_or_else(|| std::io::Error::other(error), Into::into),
        };
        let mut sockets: ReusePortSockArray<&mut MapData> = self.map(SOCKETS)?;
        for (place, socket) in (first..).zip(&group.to) {
            sockets.set(place, &**socket, 0).map_err(refused)?;
        }
        let cpus = nr_cpus().map_err(|(what, source)| ProgramsError::Map { what, source })?;
        let value = || PerCpuValues::try_from(vec![[span(first, group.to.len() as u32), 0, 0]; cpus]);
        let keys = self.standing.last().map(|standing| standing.keys.clone()).unwrap_or_default();
        let mut memory = std::mem::replace(&mut self.map_memory, MapMemory::new());
        let mut groups: PerCpuHashMap<&mut MapData, HeldKey, Steered> = self.map(GROUPS)?;
        for key in keys {
            memory.insert(|| groups.insert(key, value()?, 0)).map_err(|error| ProgramsError::map(GROUPS, error))?;
        }
        self.map_memory = memory;
        Ok(())
    }

    /// Through a new socket. That each old one is in the same group shows in that the program can be taken off by it.
    fn attach(&mut self, group: &Group<'_>) -> Result<(), SteerError> {
        let address = group.address;
        let refused = |source| SteerError::Refused { address, what: "the program", source };
        let program: &mut SkReuseport = programs::program(&mut self.ebpf, self.program)?;
        let Some(socket) = group.to.first() else { return Ok(()) };
        let attach = || program.attach(socket.as_fd()).map_err(|error| refused(number(&error)));
        attach()?;
        for old in &group.from {
            match SkReuseport::detach(old).map_err(|error| number(&error)) {
                // The one where its group has no program, the other where it is in none.
                Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOENT | Errno::INVAL)) => {
                    return Err(SteerError::Apart { address });
                }
                detached => detached.map_err(refused)?,
            }
            attach()?;
        }
        Ok(())
    }

    fn take_off(&mut self, standing: &AttachedGroup, others: &[Arc<OwnedFd>]) -> Result<(), SteerError> {
        if let Ok(mut groups) = self.map::<PerCpuHashMap<&mut MapData, HeldKey, Steered>>(GROUPS) {
            standing.keys.iter().for_each(|key| drop(groups.remove(key)));
        }
        let listening =
            [&standing.socket].into_iter().chain(others).find(|socket| listens_at(socket, standing.address));
        // With its last listener the group has gone, and the program with it.
        let Some(listening) = listening else { return Ok(()) };
        match SkReuseport::detach(&**listening).map_err(|error| number(&error)) {
            // Somebody else has taken it off.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => Ok(()),
            detached => detached.map_err(|source| SteerError::Detach { address: standing.address, source }),
        }
    }

    /// A socket is in one array only, so it must be let go of for the next reload. One that was closed has gone by itself.
    fn clear(&mut self, places: std::ops::Range<u32>) {
        if let Ok(mut sockets) = self.map::<ReusePortSockArray<&mut MapData>>(SOCKETS) {
            places.for_each(|place| drop(sockets.clear_index(&place)));
        }
    }

    fn map<'a, M>(&'a mut self, what: &'static str) -> Result<M, ProgramsError>
    where
        M: TryFrom<&'a mut aya::maps::Map, Error = MapError>,
    {
        let map = self.ebpf.map_mut(what).ok_or(ProgramsError::Damaged { what })?;
        M::try_from(map).map_err(|error| ProgramsError::map(what, error))
    }
}

impl Drop for Steer {
    fn drop(&mut self) {
        if let Err(error) = self.end(&[]) {
            log::error!("{error}");
        }
    }
}

fn listens_at(socket: &OwnedFd, address: SocketAddr) -> bool {
    let socket = SockRef::from(socket);
    let there = socket.local_addr().ok().and_then(|found| found.as_socket());
    socket.is_listener().is_ok_and(|listens| listens) && there == Some(address)
}

fn number(error: &(dyn std::error::Error + 'static)) -> std::io::Error {
    errno(error).map_or_else(|| std::io::Error::other(bpf::error_chain(error)), Into::into)
}
