//! Chooses between the two gates.

use super::error::HoldError;
use crate::gate::contract::{Backend, Gate, GateError, Handover, Living, Spec};
use crate::gate::ebpf::{self, EbpfError, EbpfGate};
use crate::gate::failures::Failures;
use crate::gate::qdisc::{self, QdiscError, QdiscGate};

/// A gate in place.
pub(super) struct Prepared {
    pub(super) backend: Backend,
    pub(super) gate: Box<dyn Gate>,
    /// Why the eBPF gate was not taken, where it was tried first.
    pub(super) note: Option<String>,
}

/// Puts a gate in place. Without a `backend` it is the eBPF gate, or the qdisc gate where the eBPF gate does not work.
///
/// # Errors
/// Where the chosen gate does not work, or neither does. Nothing is left in the kernel then.
pub(super) fn prepare(spec: &Spec, backend: Option<Backend>) -> Result<Prepared, HoldError> {
    let chosen = |backend, gate| Ok(Prepared { backend, gate, note: None });
    match backend {
        Some(Backend::Ebpf) => chosen(Backend::Ebpf, prepare_ebpf(spec).map_err(GateError::from)?),
        Some(Backend::Qdisc) => chosen(Backend::Qdisc, prepare_qdisc(spec).map_err(GateError::from)?),
        None => match prepare_ebpf(spec) {
            Ok(gate) => chosen(Backend::Ebpf, gate),
            Err(ebpf) => match prepare_qdisc(spec) {
                Ok(gate) => {
                    let note = Some(format!("held by the qdisc gate, because: {ebpf}"));
                    Ok(Prepared { backend: Backend::Qdisc, gate, note })
                }
                Err(qdisc) => Err(HoldError::Neither { ebpf, qdisc }),
            },
        },
    }
}

fn prepare_ebpf(spec: &Spec) -> Result<Box<dyn Gate>, EbpfError> {
    Ok(Box::new(EbpfGate::prepare(spec)?))
}

fn prepare_qdisc(spec: &Spec) -> Result<Box<dyn Gate>, QdiscError> {
    Ok(Box::new(QdiscGate::prepare(spec)?))
}

/// The gate that a holder has handed over to its guard.
///
/// # Errors
/// Where the handover does not describe a gate of this kind.
pub(super) fn restore(backend: Backend, handover: Handover) -> Result<Box<dyn Gate>, GateError> {
    Ok(match backend {
        Backend::Ebpf => Box::new(EbpfGate::restore(handover)?),
        Backend::Qdisc => Box::new(QdiscGate::restore(&handover)?),
    })
}

/// Removes what the gates of dead holds have left in the network namespace of the calling thread. Returns the
/// number of filters and holds.
///
/// # Errors
/// Where something could not be found or removed. Everything else is removed then.
pub(super) fn remove_stale(living: &Living) -> Result<usize, GateError> {
    let mut failures = Failures::new();
    let of_qdisc = failures.note(qdisc::remove_stale(living));
    let of_ebpf = failures.note(ebpf::remove_stale(living));
    failures.into_result(of_qdisc.unwrap_or(0) + of_ebpf.unwrap_or(0))
}
