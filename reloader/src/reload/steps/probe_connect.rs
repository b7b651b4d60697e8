//! Connects to each changed listener after a reload, where `probe-connect` asks for it.

use std::collections::HashSet;

use crate::model::listener::{Endpoint, Owned, Role};
use crate::receipt::{Doubt, Kind, ListenerReceipt, ReasonCode, Rung};
use crate::reload::attempt::Attempt;
use crate::sockets::test_connection;

impl Attempt<'_> {
    /// Takes the proof from the listeners that the daemon itself cannot connect to. Nothing is asked while the old generation may still answer,
    /// or the receipt is in doubt anyway.
    pub(in crate::reload) async fn probe_connect(&mut self) {
        let Some(limit) = self.supervisor.config().reload.probe_connect else { return };
        if self.request.kind != Kind::Reload || self.recorder.receipt().reason.is_some() {
            return;
        }
        self.tell("connecting to the changed listeners");
        let changed = changed(&self.recorder.receipt().listeners);
        let listeners = testable(&self.supervisor.present_listeners(), &changed);
        let endpoints: Vec<Endpoint> = listeners.iter().map(|owned| owned.listener.endpoint.clone()).collect();
        let heartbeat = self.supervisor.heartbeat();
        for (position, why) in heartbeat.during(test_connection::failures(&endpoints, limit)).await {
            let inode = Some(listeners[position].listener.inode);
            let why = format!("the daemon's own connection failed: {why}");
            let entries = self.recorder.receipt().listeners.iter_mut();
            entries
                .filter(|entry| entry.inode_after == inode)
                .for_each(|entry| entry.doubt(Doubt::new(ReasonCode::ConnectFailed, why.clone())));
        }
    }
}

/// The sockets that are proven and were not there before the reload. Pure.
fn changed(listeners: &[ListenerReceipt]) -> HashSet<u64> {
    let is_changed = |entry: &&ListenerReceipt| {
        entry.role == Role::Traffic && entry.rung != Rung::Unproven && entry.inode_after != entry.inode_before
    };
    listeners.iter().filter(is_changed).filter_map(|entry| entry.inode_after).collect()
}

/// Those of them that a connection from the daemon can reach. Pure.
fn testable(owned: &[Owned], changed: &HashSet<u64>) -> Vec<Owned> {
    let of_interest = owned.iter().filter(|owned| {
        changed.contains(&owned.listener.inode) && test_connection::is_testable(&owned.listener.endpoint)
    });
    of_interest.cloned().collect()
}
