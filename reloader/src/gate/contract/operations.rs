//! The operations of a gate, in the order in which a hold asks for them.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use super::error::GateError;
use super::stats::HoldStats;
use crate::gate::failures::Failures;

/// A mechanism that holds SYNs. The methods are called in the order in which they stand here. All calls to one gate come from threads of
/// one network namespace.
///
/// A gate that is dropped removes what it has put into the kernel.
pub trait Gate: Send {
    /// Starts to park SYNs. Before this call everything is in place and nothing is parked.
    ///
    /// # Errors
    /// Where the kernel refuses. Nothing is parked then.
    fn arm(&mut self) -> Result<(), GateError>;

    /// Why this hold proves nothing, although it is in place.
    fn doubt(&self) -> Option<String> {
        None
    }

    /// Extends the lease to [`LEASE`](super::LEASE) from now.
    ///
    /// # Errors
    /// Where the kernel refuses.
    fn renew(&mut self) -> Result<(), GateError>;

    /// Covers new devices and addresses, and forgets those that have gone. A device that fails does not keep the others from being
    /// covered. Renews the lease on the way, and calls `meanwhile` at each device. `done` is true where the guard needs a new handover.
    fn follow(&mut self, meanwhile: &mut dyn FnMut()) -> Partial<bool>;

    /// What the guard gets. It is complete before [`arm`](Gate::arm) is called.
    ///
    /// # Errors
    /// Where a descriptor cannot be duplicated.
    fn handover(&self) -> Result<Handover, GateError>;

    /// Lets new SYNs pass and delivers the parked ones in their order. A SYN that fails does not keep the others from being
    /// delivered. A second call finds nothing to do.
    fn deliver(&mut self) -> Partial<HoldStats>;

    /// Removes everything from the kernel. Either the guard has closed its duplicates by now, or the guard is the caller.
    ///
    /// # Errors
    /// Where something could not be removed. Everything else is removed then.
    fn remove(&mut self) -> Result<(), GateError>;

    /// [`deliver`](Gate::deliver) and [`remove`](Gate::remove), where no guard has to be told in between.
    ///
    /// # Errors
    /// The errors of both.
    fn release(&mut self) -> Result<HoldStats, GateError> {
        let Partial { done, trouble } = self.deliver();
        let mut failures = Failures::from_iter(trouble);
        failures.note(self.remove());
        failures.into_result(done)
    }
}

/// What a guard needs in order to release a gate in the holder's place.
#[derive(Debug)]
pub struct Handover {
    /// What the gate says about itself.
    pub manifest: serde_json::Value,
    /// Duplicates of the gate's maps, links and sockets, in the order that the manifest gives.
    pub descriptors: Vec<OwnedFd>,
}

/// What a gate has done, although a part of it failed.
#[derive(Debug)]
pub struct Partial<T> {
    /// What was done.
    pub done: T,
    /// What failed.
    pub trouble: Option<GateError>,
}

impl<T> Partial<T> {
    /// Converts a partial success into an error.
    ///
    /// # Errors
    /// Where a part failed.
    pub fn into_result(self) -> Result<T, GateError> {
        self.trouble.map_or(Ok(self.done), Err)
    }
}

/// Why a hold proves nothing where filters of others come before its own on these devices: nothing tells what they decided.
pub(in crate::gate) fn doubt_behind_others<'a>(devices: impl Iterator<Item = &'a str>) -> Option<String> {
    let devices: BTreeSet<&str> = devices.collect();
    (!devices.is_empty()).then(|| {
        let devices = Vec::from_iter(devices).join(", ");
        format!("other filters come before the hold on {devices}: a SYN is not held where one of them decides on it")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::contract::testing::BrokenGate;

    #[test]
    fn release_reports_both_what_was_not_delivered_and_what_was_not_removed() {
        assert_eq!(BrokenGate.release().unwrap_err().to_string(), "2 SYNs stay parked; also: a filter stays");
    }
}
