//! Lets a server that binds without SO_REUSEPORT bind beside its old generation, while it starts.
//!
//! The kernel compares the flags of both sockets (`inet_csk_bind_conflict`), so the old ones get the flag too, although they listen already. It also
//! compares their users.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{Uid, fchown, fstat};
use socket2::SockRef;

use crate::gate::port_sharing::{PortSharing, Shared};
use crate::model::listener::Listener;
use crate::process::control_group::ControlGroup;
use crate::process::{Handle, ProcessScope, WrittenFile, run_blocking, written_in_place};
use crate::receipt::{Failure, ReasonCode};
use crate::reload::attempt::Attempt;
use crate::sockets::custody::Custody;
use crate::sys;

/// The ports of a starting generation are shared. Dropped, the programs are detached first, then its processes leave the group.
pub(in crate::reload) struct SharedStart {
    programs: PortSharing,
    group: ControlGroup,
}

impl SharedStart {
    /// The file by which the new process enters the group.
    pub(in crate::reload) fn entrance(&self) -> BorrowedFd<'_> {
        self.group.entrance()
    }
}

impl Attempt<'_> {
    /// Prepares everything for a start beside the old generation, if this server wants it. While nothing serves, the start goes on without.
    pub(in crate::reload) async fn share_ports(&mut self) -> Result<Option<SharedStart>, Failure> {
        let Some(ports) = self.ports_to_share() else { return Ok(None) };
        let is_served = self.supervisor.is_served();
        self.refuse_shared_data().await?;
        let user = self.supervisor.server().binds_as();
        let old = self.supervisor.present_listeners().into_iter().map(|owned| owned.listener);
        let old: Vec<Listener> = old.filter(|old| old.endpoint.is_tcp_here() && is_at(old, &ports)).collect();
        let custody = self.supervisor.custody().clone();
        let begin = move || {
            let user = user?;
            old.iter().try_for_each(|listener| prepare(&custody, listener, user))?;
            begin(&ports)
        };
        match run_blocking(begin).await {
            Ok(start) => Ok(Some(start)),
            Err(why) if is_served => Err(cannot_overlap(&why)),
            Err(why) => {
                self.recorder.note(format!("its ports are not shared with the next generation: {why}"));
                Ok(None)
            }
        }
    }

    /// Two generations of a database must not write the same files. Nothing tells a log from data but the way in which it is opened.
    async fn refuse_shared_data(&self) -> Result<(), Failure> {
        let Some(serving) = self.supervisor.serving().filter(|_| self.supervisor.is_served()) else { return Ok(()) };
        let Some(allowed) = self.supervisor.server().shared_files() else { return Ok(()) };
        let (root, allowed) = (serving.process.pid(), allowed.to_vec());
        let is_allowed = move |path: &Path| allowed.iter().any(|allowed| path.starts_with(allowed));
        let found = run_blocking(move || {
            let written = written_in_place(&ProcessScope::All.processes(root));
            written.into_iter().find(|file| !is_allowed(&file.path))
        });
        let Some(WrittenFile { pid, path }) = found.await else { return Ok(()) };
        let reason = format!(
            "process {pid} of the serving generation has {} open for writing, and two generations would write it at once: use sockets = \
             \"replace\", or name it in `shared-files` of the service if the server expects that",
            path.display()
        );
        Err(Failure::new(ReasonCode::DataAtRisk, reason))
    }

    /// The ports that the next generation is to bind beside the old one.
    fn ports_to_share(&self) -> Option<HashSet<u16>> {
        if !self.shares_ports {
            return None;
        }
        let configured = self.supervisor.endpoints();
        let present = self.supervisor.present_listeners().into_iter().map(|owned| owned.listener.endpoint);
        let ports: HashSet<u16> =
            configured.into_iter().chain(present).filter_map(|endpoint| endpoint.port()).collect();
        (!ports.is_empty()).then_some(ports)
    }

    /// Ends it, whether or not the generation has become ready. Returns a sentence where the kernel did not do what was asked.
    pub(in crate::reload) async fn end_sharing(&mut self, start: Option<SharedStart>) -> Option<String> {
        let mut start = start?;
        let shared = run_blocking(move || {
            let shared = start.programs.shared();
            drop(start);
            shared
        })
        .await;
        match shared {
            Ok(Shared { refused: 0, sockets }) => {
                if sockets > 0 && self.supervisor.is_served() {
                    self.recorder.note(format!(
                        "sockets that were bound beside those of the old generation, with SO_REUSEPORT set for them (overlap): {sockets}"
                    ));
                }
                None
            }
            Ok(Shared { refused, .. }) => {
                Some(format!("the kernel refused to set SO_REUSEPORT on {refused} of its sockets"))
            }
            Err(error) => Some(error.to_string()),
        }
    }
}

/// A reload that can neither share its ports nor may replace the old generation.
pub(in crate::reload) fn cannot_overlap(why: &str) -> Failure {
    let reason = format!(
        "two generations cannot share a port here: {why}; set fallback = \"replace\" for the service to replace it while SYNs are held"
    );
    Failure::new(ReasonCode::OverlapImpossible, reason)
}

fn is_at(listener: &Listener, ports: &HashSet<u16>) -> bool {
    listener.endpoint.port().is_some_and(|port| ports.contains(&port))
}

fn begin(ports: &HashSet<u16>) -> Result<SharedStart, String> {
    let group = ControlGroup::make()?;
    let namespace = sys::network_namespace_cookie().map_err(|error| {
        format!("the kernel does not tell the cookie of the network namespace (Linux 5.14): {error}")
    })?;
    let ports: Vec<u16> = ports.iter().copied().collect();
    let programs = PortSharing::begin(group.directory(), &ports, namespace)?;
    Ok(SharedStart { programs, group })
}

/// Sets SO_REUSEPORT on an old listener, and makes it belong to the user as which the new one is bound.
fn prepare(custody: &Custody, listener: &Listener, user: u32) -> Result<(), String> {
    let Listener { endpoint, inode } = listener;
    let kept = custody.kept().iter().find(|kept| kept.listener.inode == *inode);
    let duplicate = match (kept, custody.owner(*inode)) {
        (Some(_), _) => None,
        (None, Some(owner)) => Some(Handle::duplicate(owner, *inode).map_err(|error| format!("{endpoint}: {error}"))?),
        (None, None) => return Err(format!("{endpoint}: the old generation's socket cannot be found")),
    };
    let socket = match (&duplicate, kept) {
        (Some(duplicate), _) => duplicate.as_fd(),
        (None, Some(kept)) => kept.fd.as_fd(),
        (None, None) => return Ok(()),
    };
    let owner = fstat(socket).map_err(|errno| format!("{endpoint}: {errno}"))?.st_uid;
    if owner != user {
        // sk_uid follows (`sockfs_setattr`).
        fchown(socket, Some(Uid::from_raw(user)), None).map_err(|errno| {
            format!(
                "{endpoint} belongs to user {owner}, the new generation binds as user {user}, and chown fails: {errno}"
            )
        })?;
    }
    SockRef::from(&socket).set_reuse_port(true).map_err(|error| format!("{endpoint}: SO_REUSEPORT: {error}"))
}
