//! Steers the connections of SO_REUSEPORT groups: new connections go to some of a group's sockets only. Where the kernel migrates (Linux
//! 5.14), what is queued on another socket moves there when that one is closed.
//!
//! The program is attached to the group. The group exists in the kernel while a process has one of its sockets open. The program steers
//! until its lease ends. After that the kernel chooses as if there were no program, so a daemon that dies leaves nothing that acts.

mod error;
mod group;
mod loaded_program;
mod trace;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use aya::programs::SkReuseport;
use reloader_ebpf::{HeldKey, MAX_STEERED, held_key};
use rustix::io::Errno;
use socket2::SockRef;

use super::failures::{Failures, joined};
use super::programs::{SELECT_PROGRAM, STEER_PROGRAM, listened_addresses};
use crate::kernel::bpf::{self, errno};
use crate::model::listener::Address;
use loaded_program::LoadedProgram;

pub use error::SteerError;
pub use group::{Counts, Group, Left};
pub(crate) use trace::{Trace, clean_up, is_left};

/// A steering program, and the groups that it is attached to.
pub struct Steer {
    loaded: LoadedProgram,
    attached: Vec<AttachedGroup>,
    /// How many entries of the array of sockets are in use.
    used: u32,
    trace: Option<Trace>,
}

/// A group that the program is attached to.
struct AttachedGroup {
    address: SocketAddr,
    keys: Vec<HeldKey>,
    /// One of its sockets, through which the program is detached.
    socket: Arc<OwnedFd>,
}

impl Steer {
    /// Loads the program that this kernel takes: the one that migrates, or the one that only selects.
    ///
    /// # Errors
    /// Where bpf(2) is denied or missing, and where the kernel takes neither.
    pub fn load() -> Result<Steer, SteerError> {
        let loaded = LoadedProgram::load(STEER_PROGRAM).or_else(|_| LoadedProgram::load(SELECT_PROGRAM))?;
        Ok(Steer::new(loaded))
    }

    /// As [`load`](Self::load), without migration: for tests on kernels that migrate.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_selecting() -> Result<Steer, SteerError> {
        Ok(Steer::new(LoadedProgram::load(SELECT_PROGRAM)?))
    }

    fn new(loaded: LoadedProgram) -> Steer {
        Steer { loaded, attached: Vec::new(), used: 0, trace: None }
    }

    /// Whether what is queued on a closed listener moves over.
    pub fn migrates(&self) -> bool {
        self.loaded.migrates()
    }

    /// Steers all groups until `lease` is over, counted from now. A lease of zero ends the steering.
    ///
    /// # Errors
    /// Where the map cannot be written. Then nothing is steered once the last lease is over.
    pub fn renew(&mut self, lease: Duration) -> Result<(), SteerError> {
        Ok(self.loaded.set_lease(lease)?)
    }

    /// Keeps a trace for as long as a program is attached.
    pub(crate) fn keep(&mut self, trace: Trace) {
        self.trace = Some(trace);
    }

    /// Attaches the program to a group. Returns the group's number.
    ///
    /// # Errors
    /// Where the kernel refuses. The program is not attached to the group then.
    pub fn add(&mut self, group: &Group<'_>) -> Result<usize, SteerError> {
        let keys = self.keys(group)?;
        let address = group.address;
        let Some(socket) = group.to.first().cloned() else { return Err(SteerError::Apart { address }) };
        if self.attached.iter().any(|attached| attached.keys.iter().any(|key| keys.contains(key))) {
            return Err(SteerError::Ambiguous { address });
        }
        let count = group.to.len() as u32;
        if self.used + count > MAX_STEERED {
            return Err(SteerError::TooMany { address, most: MAX_STEERED });
        }
        let first = self.used;
        self.used += count;
        let attached = AttachedGroup { address, keys, socket };
        if let Err(error) = self.attach(group, &attached.keys, first) {
            let detached = self.detach(&attached, &[]);
            self.loaded.clear_sockets(first..first + count);
            return Err(joined(error, detached.err()));
        }
        self.attached.push(attached);
        Ok(self.attached.len() - 1)
    }

    /// What became of the connections of a group.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn counts(&mut self, group: usize) -> Result<Counts, SteerError> {
        match self.attached.get(group) {
            Some(attached) => Ok(self.loaded.counts(&attached.keys)?),
            None => Ok(Counts::default()),
        }
    }

    /// What the program has left to the kernel's own choice, for all groups since it was loaded.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn left(&mut self) -> Result<Left, SteerError> {
        Ok(self.loaded.left()?)
    }

    /// Whether the program is attached to a group.
    pub fn is_in_force(&self) -> bool {
        !self.attached.is_empty()
    }

    /// Whether the program is attached to a group at this address.
    pub(crate) fn is_attached_at(&self, address: &Address) -> bool {
        self.attached.iter().any(|attached| Address::Inet(attached.address) == *address)
    }

    /// Whether the program is still attached to all groups. Another program may have taken its place.
    pub fn is_still_attached(&mut self) -> bool {
        let Ok(program) = self.loaded.program() else { return false };
        let is_attached = |attached: &AttachedGroup| {
            SkReuseport::detach(&*attached.socket).is_ok() && program.attach(&*attached.socket).is_ok()
        };
        self.attached.iter().all(is_attached)
    }

    /// Detaches the program from all groups. `others` are further sockets of the groups: the program cannot be detached through a socket
    /// that no longer listens.
    ///
    /// # Errors
    /// Where the program could not be detached from a group. It is detached from all others then.
    pub fn end(&mut self, others: &[Arc<OwnedFd>]) -> Result<(), SteerError> {
        let mut failures = Failures::new();
        failures.note(self.renew(Duration::ZERO));
        for attached in std::mem::take(&mut self.attached) {
            failures.note(self.detach(&attached, others));
        }
        let used = std::mem::take(&mut self.used);
        self.loaded.clear_sockets(0..used);
        self.trace = None;
        self.loaded.renew_memory();
        failures.into_result(())
    }

    /// How the program finds the group. Where the kernel migrates, the program gets the listener. Elsewhere it has only the packet.
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

    /// Fills the maps, and attaches the program through a new socket. Then checks that each old socket is in the same group: it detaches the
    /// program through the old socket, and attaches it again.
    fn attach(&mut self, group: &Group<'_>, keys: &[HeldKey], first: u32) -> Result<(), SteerError> {
        let address = group.address;
        self.loaded.set_sockets(address, &group.to, first)?;
        self.loaded.add_keys(keys, first, group.to.len() as u32)?;
        let refused = |source| SteerError::Refused { address, what: "the program", source };
        let program = self.loaded.program()?;
        let Some(socket) = group.to.first() else { return Ok(()) };
        let attach = || program.attach(socket.as_fd()).map_err(|error| refused(number(&error)));
        attach()?;
        for old in &group.from {
            match SkReuseport::detach(old).map_err(|error| number(&error)) {
                Err(error) if is_without_program(&error) => return Err(SteerError::Apart { address }),
                detached => detached.map_err(refused)?,
            }
            attach()?;
        }
        Ok(())
    }

    fn detach(&mut self, attached: &AttachedGroup, others: &[Arc<OwnedFd>]) -> Result<(), SteerError> {
        self.loaded.remove_keys(&attached.keys);
        let listening =
            [&attached.socket].into_iter().chain(others).find(|socket| listens_at(socket, attached.address));
        // When the last listener of a group is closed, the kernel removes the group and its program.
        let Some(listening) = listening else { return Ok(()) };
        match SkReuseport::detach(&**listening).map_err(|error| number(&error)) {
            // It was not attached, or another process has detached it.
            Err(error) if is_without_program(&error) => Ok(()),
            detached => detached.map_err(|source| SteerError::Detach { address: attached.address, source }),
        }
    }
}

impl Drop for Steer {
    fn drop(&mut self) {
        if let Err(error) = self.end(&[]) {
            log::error!("{error}");
        }
    }
}

/// ENOENT means that the socket's group has no program, EINVAL that the socket is in no group.
fn is_without_program(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::INVAL))
}

fn listens_at(socket: &OwnedFd, address: SocketAddr) -> bool {
    let socket = SockRef::from(socket);
    let local = socket.local_addr().ok().and_then(|local| local.as_socket());
    socket.is_listener().is_ok_and(|listens| listens) && local == Some(address)
}

/// The error number in an error of aya.
fn number(error: &(dyn std::error::Error + 'static)) -> io::Error {
    errno(error).map_or_else(|| io::Error::other(bpf::error_chain(error)), Into::into)
}
