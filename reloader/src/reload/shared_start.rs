//! Lets the processes of one start bind ports beside the listeners that are there.
//!
//! The kernel compares the flags of both sockets (`inet_csk_bind_conflict`), so the old ones get the flag too, although they listen already. It also
//! compares their users.

use std::collections::HashSet;
use std::os::fd::BorrowedFd;

use rustix::fs::{Uid, fchown, fstat};
use socket2::SockRef;

use crate::gate::ProgramsError;
use crate::gate::port_sharing::{PortSharing, Shared};
use crate::model::listener::Listener;
use crate::process::control_group::ControlGroup;
use crate::sockets::custody::Custody;
use crate::sys;

/// The ports of a starting generation are shared. Dropped, the programs are detached first, then its processes leave the group.
pub(super) struct SharedStart {
    programs: PortSharing,
    group: ControlGroup,
}

impl SharedStart {
    /// Prepares the `old` listeners, which the custody has or knows the owners of, for sockets that `user` binds, and shares the ports. It blocks.
    ///
    /// # Errors
    /// A sentence. Some of the old listeners may be prepared then.
    pub(super) fn begin(
        ports: &HashSet<u16>,
        old: &[Listener],
        custody: &Custody,
        user: u32,
    ) -> Result<SharedStart, String> {
        old.iter().try_for_each(|listener| prepare(custody, listener, user))?;
        let group = ControlGroup::make()?;
        let namespace = sys::network_namespace_cookie().map_err(|error| {
            format!("the kernel does not tell the cookie of the network namespace (Linux 5.14): {error}")
        })?;
        let ports: Vec<u16> = ports.iter().copied().collect();
        let programs = PortSharing::begin(group.directory(), &ports, namespace)?;
        Ok(SharedStart { programs, group })
    }

    /// Ends it, and tells what the programs did. It blocks.
    ///
    /// # Errors
    /// Where that cannot be read.
    pub(super) fn end(mut self) -> Result<Shared, ProgramsError> {
        self.programs.shared()
    }

    /// The file by which the new process enters the group.
    pub(super) fn entrance(&self) -> BorrowedFd<'_> {
        self.group.entrance()
    }
}

/// Sets SO_REUSEPORT on an old listener, and makes it belong to the user as which the new one is bound.
fn prepare(custody: &Custody, listener: &Listener, user: u32) -> Result<(), String> {
    let Listener { endpoint, inode } = listener;
    let socket = custody.socket_of(*inode).map_err(|error| format!("{endpoint}: {error}"))?;
    let owner = fstat(&socket).map_err(|errno| format!("{endpoint}: {errno}"))?.st_uid;
    if owner != user {
        // sk_uid follows (`sockfs_setattr`).
        fchown(&socket, Some(Uid::from_raw(user)), None).map_err(|errno| {
            format!(
                "{endpoint} belongs to user {owner}, the new generation binds as user {user}, and chown fails: {errno}"
            )
        })?;
    }
    SockRef::from(&socket).set_reuse_port(true).map_err(|error| format!("{endpoint}: SO_REUSEPORT: {error}"))
}
