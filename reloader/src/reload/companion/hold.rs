//! Holds SYNs, from before the master is asked, for listeners that could not be steered afterwards. The decision is pure.

use super::Prepared;
use crate::config::Strategy;
use crate::model::listener::Owned;
use crate::receipt::Failure;
use crate::reload::attempt::Attempt;

impl Attempt<'_> {
    /// Holds SYNs and drains the old queues of listeners that the new worker may bind again, where connections could not be steered to it
    /// afterwards.
    pub(super) async fn hold_what_cannot_move(&mut self, prepared: &Prepared, old: &[Owned]) -> Result<(), Failure> {
        let Some(why) = self.why_hold(prepared).await else { return Ok(()) };
        log::info!("SYNs are held for the time of this reload: {why}");
        self.tell("holding SYNs");
        self.hold_all(old).await;
        self.refuse_unproven_hold()
    }

    /// Whether connections that are queued on a socket of the old worker can be moved after the worker has closed that socket.
    pub(super) async fn migrates(&mut self) -> bool {
        let heartbeat = self.supervisor.heartbeat();
        let loaded = heartbeat.during(self.supervisor.load_steering()).await;
        loaded.inspect_err(|error| log::debug!("{error}")).unwrap_or(false)
    }

    async fn why_hold(&mut self, prepared: &Prepared) -> Option<String> {
        let migrates = self.migrates().await;
        let noreuseport =
            prepared.facts.noreuseport || self.supervisor.serving().is_some_and(|serving| serving.noreuseport);
        let change = match self.supervisor.server().companion().and_then(|companion| companion.binds()) {
            None => Some("it is not known what the serving worker has read".into()),
            Some(before) => before.first_gone(&prepared.binds).map(|gone| format!("`bind {gone}` changes or goes")),
        };
        reason(self.supervisor.config().reload.strategy, migrates, noreuseport, change)
    }
}

fn reason(strategy: Strategy, migrates: bool, noreuseport: bool, change: Option<String>) -> Option<String> {
    match strategy {
        Strategy::FdPass | Strategy::Steer => None,
        Strategy::Hold | Strategy::KernelFallback => Some(format!("strategy = \"{strategy}\"")),
        Strategy::Auto if !migrates => Some("queued connections cannot be moved over here".into()),
        Strategy::Auto if noreuseport => Some("`noreuseport` keeps two workers from sharing a reuseport group".into()),
        Strategy::Auto => change,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_is_only_what_could_not_be_steered_afterwards() {
        let changed = || Some("`bind :80` changes or goes".to_owned());
        assert_eq!(reason(Strategy::Auto, true, false, None), None);
        assert_eq!(reason(Strategy::Auto, true, false, changed()), changed());
        assert!(reason(Strategy::Auto, false, false, None).unwrap().contains("cannot be moved over"));
        assert!(reason(Strategy::Auto, true, true, None).unwrap().contains("noreuseport"));
        assert!(reason(Strategy::Hold, true, false, None).is_some());
        assert!(reason(Strategy::KernelFallback, true, false, None).is_some());
        assert_eq!(reason(Strategy::Steer, false, true, changed()), None);
        assert_eq!(reason(Strategy::FdPass, false, true, changed()), None);
    }
}
