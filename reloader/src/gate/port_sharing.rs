//! Lets a new generation bind its ports beside the old one, although the server knows nothing of it: while the generation starts, a program sets
//! SO_REUSEPORT on what it binds. The program ends with the process that attached it: nothing is left by a daemon that is killed.

use std::io;
use std::os::fd::BorrowedFd;

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, PerCpuArray};
use aya::programs::{CgroupAttachMode, CgroupSockAddr};
use reloader_ebpf::{MAX_WATCHED, bound};

use super::programs::{self, BIND_OBJECT, BIND_PROGRAMS, ProgramsError};
use crate::kernel::bpf::{self, errno};

/// The names of the maps.
const PORTS: &str = "PORTS";
const NAMESPACE: &str = "NAMESPACE";
const BOUND: &str = "BOUND";

/// The programs, attached to a control group. Dropped, they are detached.
pub(crate) struct PortSharing {
    ebpf: Ebpf,
}

/// What the programs did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Shared {
    /// Sockets that got SO_REUSEPORT.
    pub(crate) sockets: u64,
    /// Sockets for which the kernel refused it.
    pub(crate) refused: u64,
}

impl PortSharing {
    /// How many ports can be shared.
    pub(crate) const MAX_PORTS: usize = MAX_WATCHED as usize;

    /// Loads the programs, and attaches them to the control group. They act on TCP sockets that its processes bind to these ports in the network
    /// namespace with this cookie (SO_NETNS_COOKIE).
    ///
    /// # Errors
    /// A sentence.
    pub(crate) fn begin(group: BorrowedFd<'_>, ports: &[u16], namespace: u64) -> Result<PortSharing, String> {
        let mut ebpf = load().map_err(|error| error.to_string())?;
        set(&mut ebpf, ports, namespace).map_err(|error| error.to_string())?;
        for name in BIND_PROGRAMS {
            let program: &mut CgroupSockAddr = programs::program(&mut ebpf, name).map_err(|error| error.to_string())?;
            // The flags of a link must be 0 (`cgroup_bpf_link_attach`); programs of others run as well.
            program.attach(group, CgroupAttachMode::Single).map_err(|error| {
                let error = errno(&error).map_or_else(|| io::Error::other(bpf::error_chain(&error)), Into::into);
                format!("{name} cannot be attached to a control group: {error}")
            })?;
        }
        Ok(PortSharing { ebpf })
    }

    /// What the programs did so far.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub(crate) fn shared(&mut self) -> Result<Shared, ProgramsError> {
        let map: PerCpuArray<&mut MapData, u64> = programs::map(&mut self.ebpf, BOUND)?;
        let sum = |kind| map.get(&kind, 0).map(|values| values.iter().sum());
        let refused = |error| ProgramsError::map(BOUND, error);
        Ok(Shared { sockets: sum(bound::SHARED).map_err(refused)?, refused: sum(bound::REFUSED).map_err(refused)? })
    }
}

/// Loads the programs, which are not attached to anything yet.
///
/// # Errors
/// Where the kernel refuses them.
pub(crate) fn load() -> Result<Ebpf, ProgramsError> {
    bpf::with_memlock_restored(|| {
        let mut ebpf = programs::load(BIND_OBJECT, |_| {})?;
        for name in BIND_PROGRAMS {
            let program: &mut CgroupSockAddr = programs::program(&mut ebpf, name)?;
            program.load().map_err(|error| ProgramsError::from_error(&error))?;
        }
        Ok(ebpf)
    })
}

fn set(ebpf: &mut Ebpf, ports: &[u16], namespace: u64) -> Result<(), ProgramsError> {
    let mut listed: HashMap<&mut MapData, u32, u32> = programs::map(ebpf, PORTS)?;
    for port in ports {
        listed.insert(u32::from(*port), 1, 0).map_err(|error| ProgramsError::map(PORTS, error))?;
    }
    let mut cookie: Array<&mut MapData, u64> = programs::map(ebpf, NAMESPACE)?;
    cookie.set(0, namespace, 0).map_err(|error| ProgramsError::map(NAMESPACE, error))
}
