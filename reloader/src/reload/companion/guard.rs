//! What has to be held from before the master is asked. Which, is decided here; pure.

use super::Prepared;
use crate::config::{Require, Strategy};
use crate::gate::steer::Steer;
use crate::model::listener::Owned;
use crate::receipt::{Failure, Recorder};
use crate::reload::protection::Protection;
use crate::reload::replace;
use crate::supervision::Supervisor;

/// Holds SYNs and drains the old queues where what the new worker may bind anew could not be steered to afterwards.
pub(super) async fn install(
    supervisor: &mut Supervisor,
    prepared: &Prepared,
    old: &[Owned],
    recorder: &mut Recorder,
    guards: &mut Protection,
    tell: &dyn Fn(&str),
) -> Result<(), Failure> {
    let Some(why) = why_hold(supervisor, prepared) else { return Ok(()) };
    log::info!("SYNs are held for the time of this reload: {why}");
    tell("holding SYNs");
    guards.held = replace::guard(supervisor, old, recorder).await;
    if supervisor.config.reload.require == Require::Proven {
        replace::refuse_unproven(supervisor, guards.held.as_ref())?;
    }
    Ok(())
}

fn why_hold(supervisor: &mut Supervisor, prepared: &Prepared) -> Option<String> {
    let migrates = migrates(supervisor);
    let noreuseport =
        prepared.facts.noreuseport || supervisor.serving.as_ref().is_some_and(|serving| serving.noreuseport);
    let binds = supervisor.companion.as_ref().and_then(|companion| companion.binds.as_ref());
    let change = match binds {
        None => Some("it is not known what the serving worker has read".into()),
        Some(before) => before.first_gone(&prepared.binds).map(|gone| format!("`bind {gone}` changes or goes")),
    };
    reason(supervisor.config.reload.strategy, migrates, noreuseport, change)
}

/// Whether what is queued on a socket of the old worker can be moved over when it has closed that.
pub(crate) fn migrates(supervisor: &mut Supervisor) -> bool {
    if supervisor.steer.is_none() {
        supervisor.steer = Steer::load().inspect_err(|error| log::debug!("{error}")).ok();
    }
    supervisor.steer.as_ref().is_some_and(Steer::migrates)
}

fn reason(strategy: Strategy, migrates: bool, noreuseport: bool, change: Option<String>) -> Option<String> {
    match strategy {
        Strategy::FdPass | Strategy::Steer => None,
        Strategy::Hold | Strategy::KernelFallback => Some(format!("strategy = \"{strategy}\"")),
        Strategy::Auto if !migrates => Some("this kernel does not move queued connections over".into()),
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
        assert!(reason(Strategy::Auto, false, false, None).unwrap().contains("kernel"));
        assert!(reason(Strategy::Auto, true, true, None).unwrap().contains("noreuseport"));
        assert!(reason(Strategy::Hold, true, false, None).is_some());
        assert!(reason(Strategy::KernelFallback, true, false, None).is_some());
        assert_eq!(reason(Strategy::Steer, false, true, changed()), None);
        assert_eq!(reason(Strategy::FdPass, false, true, changed()), None);
    }
}
