//! Refuses a reload without a proof where the configuration says `require = "proven"`. The old generation is not touched while there is a doubt.

use crate::config::Require;
use crate::model::listener::Owned;
use crate::plan;
use crate::receipt::{Failure, ListenerReceipt, ReasonCode, judge};
use crate::reload::attempt::Attempt;
use crate::reload::protection::held::HeldListeners;
use crate::reload::verdict::Verdict;
use crate::server::Capabilities;

impl Attempt<'_> {
    /// Whether a reload without a proof is refused.
    pub(in crate::reload) fn requires_proof(&self) -> bool {
        self.supervisor.config().reload.require == Require::Proven
    }

    /// Refuses what the plan cannot prove, before anything is started. When nothing serves, nothing is lost by going on.
    pub(in crate::reload) fn refuse_unproven_plan(&self, capabilities: &Capabilities) -> Result<(), Failure> {
        if !self.requires_proof() || !self.supervisor.is_served() {
            return Ok(());
        }
        match plan::unproven(&self.supervisor.plan(capabilities)) {
            Some(why) => {
                let reason = format!("require = \"proven\", and the plan cannot prove {why}");
                Err(Failure::new(ReasonCode::PlanUnproven, reason))
            }
            None => Ok(()),
        }
    }

    /// Refuses the reload where the new generation's listeners do not prove that nothing is lost.
    pub(in crate::reload) fn refuse_unproven(&mut self, verdicts: &[Verdict]) -> Result<(), Failure> {
        if !self.requires_proof() || self.must_serve() {
            return Ok(());
        }
        let receipts: Vec<ListenerReceipt> = verdicts.iter().map(|verdict| verdict.receipt.clone()).collect();
        let is_open = |entry: &&ListenerReceipt| !self.protection.protects(entry.inode_before);
        let open: Vec<ListenerReceipt> = receipts.iter().filter(is_open).cloned().collect();
        let doubt = judge(&open).1.map(|(_, reason)| reason);
        let Some(reason) = doubt.or_else(|| self.protection.doubts().map(|doubt| doubt.why)) else { return Ok(()) };
        self.recorder.receipt().listeners = receipts;
        Err(no_proof(&reason))
    }

    /// Refuses a hold that proves nothing, before the old generation makes room.
    pub(in crate::reload) fn refuse_unproven_hold(&self) -> Result<(), Failure> {
        if !self.requires_proof() {
            return Ok(());
        }
        let reason = match &self.protection.held {
            Some(held) => HeldListeners::doubts(held).map(|doubt| doubt.why),
            None => Some(why_not_held(&self.supervisor.present_listeners()).into()),
        };
        reason.map_or(Ok(()), |reason| Err(no_proof(&reason)))
    }
}

/// What a reload without a hold cannot prove, and why. Pure.
fn why_not_held(old: &[Owned]) -> &'static str {
    match old.iter().any(|owned| owned.listener.endpoint.is_tcp_here()) {
        true => "a listener, because no SYN can be held",
        false => "a listener, because only SYNs of TCP can be held",
    }
}

fn no_proof(reason: &str) -> Failure {
    Failure::new(ReasonCode::ProofMissing, format!("require = \"proven\", and there is no proof for {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_are_not_tcp_are_the_cause_where_there_are_no_others() {
        use crate::model::listener::{Address, Endpoint, Listener, Role};
        let owned = |address| Owned {
            listener: Listener { endpoint: Endpoint::stream(address), inode: 1 },
            role: Role::Traffic,
        };
        let (name, web) = (Address::Abstract(b"a".to_vec()), Address::Inet("127.0.0.1:80".parse().unwrap()));
        assert!(why_not_held(&[owned(name.clone())]).ends_with("only SYNs of TCP can be held"));
        assert!(why_not_held(&[owned(name), owned(web)]).ends_with("no SYN can be held"));
    }
}
