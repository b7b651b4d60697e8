//! Makes a hold in a network namespace, and clients that connect during the hold.

use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use reloader::gate::ebpf::{EbpfGate, Hook};
use reloader::gate::hold::{Gate as _, HoldStats, Spec, Target};
use reloader_tests::guest::{self, Feature};
use reloader_tests::poll::until;

/// The hooks that this kernel must have, the better one first.
pub(crate) fn hooks() -> Vec<Hook> {
    let tcx = guest::expects(Feature::Tcx).then_some(Hook::Tcx);
    tcx.into_iter().chain([Hook::Clsact]).collect()
}

/// The better hook.
pub(crate) fn best() -> Hook {
    hooks()[0]
}
const LONG: Duration = Duration::from_secs(10);

pub(crate) fn spec(targets: &[&str]) -> Spec {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let target = |address: &&str| Target { address: address.parse().unwrap(), v6only: false, interface: 0 };
    Spec {
        id: NEXT.fetch_add(1, Ordering::Relaxed),
        targets: targets.iter().map(target).collect(),
        exceptions: Vec::new(),
        capacity: 1 << 20,
    }
}

/// Prepares and arms a gate.
pub(crate) fn hold(hook: Hook, spec: &Spec) -> EbpfGate {
    let mut gate = EbpfGate::prepare_by(spec, Some(hook)).unwrap();
    gate.arm().unwrap();
    gate
}

/// Waits until that many SYNs are parked, and renews the lease meanwhile: no test depends on the speed of this machine.
pub(crate) fn until_held(gate: &mut EbpfGate, held: u64) {
    until(LONG, "SYNs to be parked", || {
        gate.renew().unwrap();
        gate.stats().unwrap().held >= held
    });
    assert_eq!(gate.stats().unwrap().held, held);
}

/// Releases, and expects that all `held` SYNs were delivered.
pub(crate) fn release(gate: &mut EbpfGate, held: u64) -> HoldStats {
    let figures = gate.release().unwrap();
    assert_eq!((figures.held, figures.released, figures.dropped, figures.lease_lapsed), (held, held, 0, 0));
    figures
}
