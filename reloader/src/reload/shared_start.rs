//! Lets the processes of one start bind ports beside the listeners that are there.
//!
//! The kernel compares the flags of both sockets (`inet_csk_bind_conflict`), so the old ones get the flag too, although they listen already. It also
//! compares their users.

use std::collections::HashSet;

use rustix::fs::{Uid, fchown, fstat};
use socket2::SockRef;

use crate::gate::ProgramsError;
use crate::gate::port_sharing::{PortSharing, Shared};
use crate::model::listener::Listener;
use crate::process::control_group::ControlGroup;
use crate::process::{Handle, SocketOwner};
use crate::server::Entrance;
use crate::sockets::custody::Custody;
use crate::sys;

/// The ports of a starting generation are shared.
pub(super) struct SharedStart {
    programs: PortSharing,
    started: Started,
}

/// A generation whose ports were shared until it was ready or had failed, and of which is not decided yet whether it will serve.
pub(super) struct Started {
    /// The group of its processes.
    pub(super) group: ControlGroup,
    /// What its predecessor's listeners are to get back if it does not.
    pub(super) users: FormerUsers,
}

/// The users as which a generation and its predecessor were to open their sockets, by their configurations.
#[derive(Debug, Clone, Copy)]
pub(super) struct Users {
    /// `None` if that is not known.
    pub(super) old: Option<u32>,
    pub(super) new: u32,
}

impl Users {
    /// The user as which the new generation opens the socket that was opened as `owner` before. A server that has changed its user by itself does so
    /// again. Pure.
    fn next(self, owner: u32) -> u32 {
        if self.old == Some(owner) { self.new } else { owner }
    }
}

impl SharedStart {
    /// Prepares the `old` listeners, which the custody has or knows the owners of, for sockets of other `users`, and shares the ports. It blocks.
    ///
    /// # Errors
    /// A sentence. Some of the old listeners may have SO_REUSEPORT then.
    pub(super) fn begin(
        ports: &HashSet<u16>,
        old: &[Listener],
        custody: &Custody,
        users: Users,
    ) -> Result<SharedStart, String> {
        let mut former = FormerUsers(Vec::new());
        old.iter().try_for_each(|listener| prepare(custody, listener, users, &mut former))?;
        let group = ControlGroup::make()?;
        let namespace = sys::network_namespace_cookie().map_err(|error| {
            format!("the kernel does not tell the cookie of the network namespace (Linux 5.14): {error}")
        })?;
        let ports: Vec<u16> = ports.iter().copied().collect();
        let programs = PortSharing::begin(group.directory(), &ports, namespace)?;
        Ok(SharedStart { programs, started: Started { group, users: former } })
    }

    /// Detaches the programs, and tells what they did. It blocks.
    pub(super) fn end(mut self) -> (Result<Shared, ProgramsError>, Started) {
        (self.programs.shared(), self.started)
    }

    /// How the new process enters the group.
    pub(super) fn entrance(&self, is_required: bool) -> Entrance<'_> {
        let group = &self.started.group;
        Entrance { group: group.path(), file: group.entrance(), is_required }
    }

    /// Whether this process has entered the group.
    pub(super) fn has(&self, pid: u32) -> bool {
        self.started.group.processes().iter().any(|(found, _)| *found == pid)
    }
}

/// The users of old listeners, before the listeners got the user of the new generation. When this is dropped, they get their users back. No duplicate
/// is kept until then: one that no process accepts on would swallow connections.
pub(super) struct FormerUsers(Vec<(Listener, SocketOwner, u32)>);

impl FormerUsers {
    /// The new generation serves: its user stays.
    pub(super) fn forget(mut self) {
        self.0.clear();
    }
}

impl Drop for FormerUsers {
    fn drop(&mut self) {
        for (listener, owner, user) in self.0.drain(..) {
            let socket = Handle::duplicate(owner, listener.inode).map_err(|error| error.to_string());
            let given_back = socket
                .and_then(|socket| fchown(&socket, Some(Uid::from_raw(user)), None).map_err(|errno| errno.to_string()));
            match given_back {
                Ok(()) => {}
                Err(error) => log::debug!("{} does not belong to user {user} again: {error}", listener.endpoint),
            }
        }
    }
}

/// Sets SO_REUSEPORT on an old listener, and makes it belong to the user as which the new one is opened.
fn prepare(custody: &Custody, listener: &Listener, users: Users, former: &mut FormerUsers) -> Result<(), String> {
    let Listener { endpoint, inode } = listener;
    let socket = custody.socket_of(*inode).map_err(|error| format!("{endpoint}: {error}"))?;
    let owner = fstat(&socket).map_err(|errno| format!("{endpoint}: {errno}"))?.st_uid;
    let user = users.next(owner);
    if owner != user {
        // sk_uid follows (`sockfs_setattr`).
        fchown(&socket, Some(Uid::from_raw(user)), None).map_err(|errno| {
            format!(
                "{endpoint} belongs to user {owner}, the new generation binds as user {user}, and chown fails: {errno}"
            )
        })?;
        former.0.extend(custody.owner(*inode).map(|process| (listener.clone(), process, owner)));
    }
    SockRef::from(&socket).set_reuse_port(true).map_err(|error| format!("{endpoint}: SO_REUSEPORT: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_that_changes_its_user_itself_is_expected_to_do_so_again() {
        let users = |old, new| Users { old, new };
        assert_eq!(users(Some(0), 0).next(0), 0);
        assert_eq!(users(Some(0), 33).next(0), 33);
        assert_eq!(users(Some(0), 0).next(33), 33);
        assert_eq!(users(Some(65534), 0).next(33), 33);
        assert_eq!(users(None, 0).next(33), 33);
    }
}
