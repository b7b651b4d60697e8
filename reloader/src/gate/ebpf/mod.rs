//! The gate of kernels from 5.8 on: a tc program parks SYNs in a BPF ring buffer.
//!
//! Each device that hands packets to IP ([`receivers`]) gets two programs. The one at ingress copies the SYNs of a held port to
//! the ring and drops them, until a lease runs out. A SYN is delivered by sending it out of the device that it came by, with a
//! mark that nobody else knows; the program at egress turns it back into that device, where the first one takes the mark off
//! and lets it go on. SYNs from `lo` go back by a raw IP socket, and need no second program. While the handshakes of delivered SYNs
//! are under way the program at ingress finds the sockets of their segments, which the kernel may miss (`settle.rs` of
//! `reloader-ebpf`).

use std::collections::HashSet;
use std::time::Instant;

use reloader_ebpf::count;
use rustix::rand::{GetRandomFlags, getrandom};

pub use super::attachment::Hook;
use super::hold::{DELIVERY_TIMEOUT, Gate, Handover, HoldError, HoldStats, Living, Partial, Spec, behind_others};
use super::programs::{BACK_PROGRAM, HOLD_PROGRAM};
use crate::kernel::bpf;
use crate::kernel::devices::{self, receivers};

mod delivery;
mod error;
mod handover;
mod handshakes;
mod keys;
mod loaded_programs;
mod maps;
mod pacing;
mod packet;

use delivery::{Delivered, Sockets, wait_for_running_programs};
pub use error::EbpfError;
use handover::Parts;
use loaded_programs::{LoadedPrograms, leave, load};
use maps::Maps;

/// Holds SYNs by eBPF.
pub struct EbpfGate {
    parts: Parts,
    /// None for a guard, which only releases.
    holder: Option<LoadedPrograms>,
    delivered: Delivered,
    /// After release.
    figures: Option<HoldStats>,
}

impl EbpfGate {
    /// Puts everything into place on the devices of the calling thread's network namespace. Nothing is parked yet.
    ///
    /// # Errors
    /// Where bpf(2), the sockets or a device cannot be used. Nothing stays behind then.
    pub fn prepare(spec: &Spec) -> Result<Self, EbpfError> {
        Self::prepare_by(spec, None)
    }

    /// As [`prepare`](Self::prepare), with the way of attaching given rather than found by trying.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    pub fn prepare_by(spec: &Spec, hook: Option<Hook>) -> Result<Self, EbpfError> {
        let mut ebpf = bpf::with_memlock_restored(|| load(spec.capacity))?;
        let mark = secret()?;
        let mut maps = Maps::from_ebpf(&mut ebpf)?;
        maps.set_mark(mark)?;
        let sockets = Sockets::open(mark).map_err(|source| EbpfError::Socket { source })?;
        let parts = Parts { maps, sockets, attachments: Vec::new(), bare: HashSet::new() };
        let holder = LoadedPrograms { ebpf, spec: spec.clone(), hook, keys: Vec::new(), armed: false };
        let mut gate = Self { parts, holder: Some(holder), delivered: Delivered::default(), figures: None };
        // Where that fails, dropping the gate removes what was attached.
        match gate.cover(&mut || ()) {
            (_, Some(error)) => Err(error),
            (_, None) => Ok(gate),
        }
    }

    /// The gate of a holder that has died, for its guard: it can be released. In a thread of the holder's network namespace.
    ///
    /// # Errors
    /// Where the keepsake is none of this gate's.
    pub fn restore(keepsake: Handover) -> Result<Self, EbpfError> {
        let parts = Parts::restore(keepsake)?;
        Ok(Self { parts, holder: None, delivered: Delivered::default(), figures: None })
    }

    /// Covers the devices that are there now. True where that changed anything, with the first error.
    fn cover(&mut self, meanwhile: &mut dyn FnMut()) -> (bool, Option<EbpfError>) {
        let Some(holder) = &mut self.holder else { return (false, None) };
        let devices = match devices::list() {
            Ok(devices) => devices,
            Err(source) => return (false, Some(EbpfError::Devices { source })),
        };
        holder.keys = keys::keys(&holder.spec, &devices);
        let mut first_error = None;
        if holder.armed {
            first_error = self.parts.maps.hold(&holder.keys).err();
        }
        let receivers = receivers(&devices);
        let (mut changed, left) = leave(&mut self.parts.attachments, &receivers);
        first_error = first_error.or(left);
        for device in receivers {
            meanwhile();
            if holder.armed {
                first_error = first_error.or(self.parts.maps.renew_lease().err());
            }
            if self.parts.attachments.iter().any(|attachment| attachment.device.index == device.index) {
                continue;
            }
            if !device.ethernet {
                self.parts.bare.insert(device.index);
            }
            match holder.attach(device) {
                Ok(attachments) => {
                    changed |= !attachments.is_empty();
                    self.parts.attachments.extend(attachments);
                }
                Err(error) => drop(first_error.get_or_insert(error)),
            }
        }
        (changed, first_error)
    }

    fn deliver_all(&mut self) -> Result<(), EbpfError> {
        // A record leaves the ring when it is dropped: after it was sent, so that a guard that takes over resumes there.
        let ways = self.parts.ways();
        let mut last = Instant::now();
        loop {
            let Some(record) = self.parts.maps.ring.next() else { return Ok(()) };
            self.delivered.deliver(&self.parts.sockets, &record, &ways);
            if last.elapsed() < DELIVERY_TIMEOUT {
                drop(record);
            } else {
                // Whoever was stopped for so long has lost his turn: what the other one took out stays out.
                std::mem::forget(record);
                self.parts.maps.reopen_ring()?;
            }
            last = Instant::now();
        }
    }

    /// Lets new SYNs pass, delivers the parked ones, and waits for their handshakes.
    fn let_go(&mut self) -> Result<(), EbpfError> {
        let passing = self.parts.maps.let_pass();
        // A guard may have delivered, of which this process's view of the ring knows nothing.
        let reopened = self.parts.maps.reopen_ring();
        let delivered = self.deliver_all();
        // A program that began before may park one more.
        let waited = wait_for_running_programs().map_err(|source| EbpfError::Socket { source });
        let rest = self.deliver_all();
        self.delivered.handshakes.wait();
        passing.and(reopened).and(delivered).and(waited).and(rest)
    }

    fn detach(&mut self) -> Result<(), EbpfError> {
        // The last to come is the first to go: the first on a device has made its `clsact`.
        let mut detached = Ok(());
        for attachment in self.parts.attachments.drain(..).rev() {
            detached = detached.and(attachment.remove().map_err(EbpfError::detach));
        }
        detached
    }

    /// What became of the SYNs so far.
    ///
    /// # Errors
    /// Where the kernel refuses to say.
    pub fn figures(&self) -> Result<HoldStats, EbpfError> {
        Ok(self.delivered.figures(self.parts.maps.counts()?))
    }

    /// How many segments found the handshake that they belong to by the gate's help: for tests, that there is any.
    ///
    /// # Errors
    /// Where the kernel refuses to say.
    pub fn settled(&self) -> Result<u64, EbpfError> {
        self.parts.maps.count(count::SETTLED)
    }

    fn refusals(&mut self) -> Result<(), EbpfError> {
        match self.delivered.first_refusal.take() {
            Some(source) => Err(EbpfError::Undelivered { count: self.delivered.refused, source }),
            None => Ok(()),
        }
    }
}

impl Gate for EbpfGate {
    fn arm(&mut self) -> Result<(), HoldError> {
        let Some(holder) = &mut self.holder else { return Ok(()) };
        self.parts.maps.renew_lease()?;
        if let Err(error) = self.parts.maps.hold(&holder.keys) {
            // The error that is told is why it failed.
            let _ = self.let_go();
            return Err(error.into());
        }
        holder.armed = true;
        Ok(())
    }

    fn renew(&mut self) -> Result<(), HoldError> {
        Ok(self.parts.maps.renew_lease()?)
    }

    fn doubt(&self) -> Option<String> {
        let behind = self.parts.attachments.iter().filter(|attachment| attachment.behind_others);
        let lapsed = || self.parts.maps.counts().is_ok_and(|[.., lapsed]| lapsed > 0);
        behind_others(behind.map(|attachment| attachment.device.name.as_str()))
            .or_else(|| lapsed().then(|| "SYNs passed while the lease of the hold had run out".into()))
    }

    fn follow(&mut self, meanwhile: &mut dyn FnMut()) -> Partial<bool> {
        let (done, trouble) = self.cover(meanwhile);
        Partial { done, trouble: trouble.map(Into::into) }
    }

    fn keepsake(&self) -> Result<Handover, HoldError> {
        Ok(self.parts.keepsake()?)
    }

    fn deliver(&mut self) -> Partial<HoldStats> {
        if let Some(done) = self.figures {
            return Partial { done, trouble: None };
        }
        let delivered = self.let_go();
        let counted = self.parts.maps.counts();
        let done = self.delivered.figures(counted.as_ref().copied().unwrap_or_default());
        self.figures = counted.is_ok().then_some(done);
        let trouble = delivered.and(self.refusals()).and(counted.map(drop)).err();
        Partial { done, trouble: trouble.map(Into::into) }
    }

    fn remove(&mut self) -> Result<(), HoldError> {
        let detached = self.detach();
        self.holder = None;
        Ok(detached?)
    }
}

impl Drop for EbpfGate {
    fn drop(&mut self) {
        if let Err(error) = self.release() {
            log::error!("{error}");
        }
    }
}

/// A mark that nobody knows.
fn secret() -> Result<u32, EbpfError> {
    let mut bytes = [0; 4];
    getrandom(&mut bytes, GetRandomFlags::empty()).map_err(|error| EbpfError::Socket { source: error.into() })?;
    Ok(u32::from_ne_bytes(bytes).max(1))
}

/// Removes what holds have left on the devices of the calling thread's network namespace whose holder and guard are both gone:
/// filters, and the `clsact` that was made for them. TCX leaves nothing.
///
/// # Errors
/// Where the devices cannot be listed or something cannot be removed, after everything else was.
pub fn remove_stale(living: &Living) -> Result<usize, EbpfError> {
    let devices = devices::list().map_err(|source| EbpfError::Devices { source })?;
    let is_left_behind = |program: &str, id| [HOLD_PROGRAM, BACK_PROGRAM].contains(&program) && !living.contains(&id);
    super::attachment::remove_left_behind(&devices, is_left_behind).map_err(EbpfError::detach)
}
