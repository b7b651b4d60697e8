//! The eBPF gate.

use std::collections::HashSet;
use std::time::Instant;

use reloader_ebpf::count;
use rustix::rand::{GetRandomFlags, getrandom};

use super::delivery::{Delivered, wait_for_running_programs};
use super::error::EbpfError;
use super::handover::Parts;
use super::keys;
use super::loaded_programs::{LoadedPrograms, detach, detach_from_gone_devices, load};
use super::maps::Maps;
use super::sockets::Sockets;
use crate::gate::attachment::Hook;
use crate::gate::contract::{
    DELIVERY_TIMEOUT, Gate, GateError, Handover, HoldStats, Partial, Spec, doubt_behind_others,
};
use crate::gate::failures::{Failures, joined};
use crate::kernel::bpf;
use crate::kernel::devices::{self, receivers};

/// Holds SYNs by eBPF.
pub struct EbpfGate {
    parts: Parts,
    /// `None` in a guard, which only releases.
    programs: Option<LoadedPrograms>,
    delivered: Delivered,
    /// What became of the SYNs, once they were delivered.
    final_stats: Option<HoldStats>,
}

impl EbpfGate {
    /// Puts everything into place on the devices of the calling thread's network namespace. Nothing is parked yet.
    ///
    /// # Errors
    /// Where bpf(2), the sockets or a device cannot be used. Nothing is left in the kernel then.
    pub fn prepare(spec: &Spec) -> Result<Self, EbpfError> {
        Self::prepare_by(spec, None)
    }

    /// As [`prepare`](Self::prepare), with the way of attaching given. Without it, TCX is tried first.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    pub fn prepare_by(spec: &Spec, hook: Option<Hook>) -> Result<Self, EbpfError> {
        let mut ebpf = bpf::with_memlock_restored(|| load(spec.capacity))?;
        let mark = secret_mark()?;
        let mut maps = Maps::from_ebpf(&mut ebpf)?;
        maps.set_mark(mark)?;
        let sockets = Sockets::open(mark).map_err(|source| EbpfError::Socket { source })?;
        let parts = Parts { maps, sockets, attachments: Vec::new(), bare: HashSet::new() };
        let programs = LoadedPrograms { ebpf, spec: spec.clone(), hook, keys: Vec::new(), armed: false };
        let mut gate = Self { parts, programs: Some(programs), delivered: Delivered::default(), final_stats: None };
        // Where this fails, dropping the gate removes what was attached.
        match gate.cover(&mut || ()) {
            (_, Some(error)) => Err(error),
            (_, None) => Ok(gate),
        }
    }

    /// The gate of a dead holder, as its guard gets it: it can be renewed and released. The calling thread is in the holder's
    /// network namespace.
    ///
    /// # Errors
    /// Where the handover does not describe an eBPF gate.
    pub fn restore(handover: Handover) -> Result<Self, EbpfError> {
        let parts = Parts::restore(handover)?;
        Ok(Self { parts, programs: None, delivered: Delivered::default(), final_stats: None })
    }

    /// Covers the devices that exist now. True where that changed anything, beside what failed.
    fn cover(&mut self, meanwhile: &mut dyn FnMut()) -> (bool, Option<EbpfError>) {
        let Some(programs) = &mut self.programs else { return (false, None) };
        let devices = match devices::list() {
            Ok(devices) => devices,
            Err(source) => return (false, Some(EbpfError::Devices { source })),
        };
        let mut failures = Failures::new();
        programs.keys = keys::keys(&programs.spec, &devices);
        if programs.armed {
            failures.note(self.parts.maps.hold(&programs.keys));
        }
        let receivers = receivers(&devices);
        let (mut changed, left) = detach_from_gone_devices(&mut self.parts.attachments, &receivers);
        failures.extend(left);
        for device in receivers {
            meanwhile();
            if programs.armed {
                failures.note(self.parts.maps.renew_lease());
            }
            if self.parts.attachments.iter().any(|attachment| attachment.device.index == device.index) {
                continue;
            }
            if !device.ethernet {
                self.parts.bare.insert(device.index);
            }
            if let Some(attachments) = failures.note(programs.attach(device)) {
                changed |= !attachments.is_empty();
                self.parts.attachments.extend(attachments);
            }
        }
        (changed, failures.into_error())
    }

    /// Lets new SYNs pass, delivers the parked ones, and waits for their handshakes. Returns what failed.
    fn let_go(&mut self) -> Failures<EbpfError> {
        let mut failures = Failures::new();
        failures.note(self.parts.maps.let_pass());
        // A guard may have delivered some SYNs. This process's view of the ring does not show that.
        failures.note(self.parts.maps.reopen_ring());
        failures.note(self.deliver_all());
        // A program that began to run before new SYNs were let pass may park one more SYN.
        failures.note(wait_for_running_programs().map_err(|source| EbpfError::Socket { source }));
        failures.note(self.deliver_all());
        self.delivered.handshakes.wait();
        failures
    }

    fn deliver_all(&mut self) -> Result<(), EbpfError> {
        // A record leaves the ring when it is dropped, which is after it was sent: a guard that takes over resumes there.
        let routes = self.parts.routes();
        let mut last = Instant::now();
        loop {
            let Some(record) = self.parts.maps.ring.next() else { return Ok(()) };
            self.delivered.deliver(&self.parts.sockets, &record, &routes);
            if last.elapsed() < DELIVERY_TIMEOUT {
                drop(record);
            } else {
                // A process that was stopped for so long no longer has the delivery lock. What the other process took out stays out.
                std::mem::forget(record);
                self.parts.maps.reopen_ring()?;
            }
            last = Instant::now();
        }
    }

    /// What became of the SYNs so far.
    ///
    /// # Errors
    /// Where the kernel does not give the counts.
    pub fn stats(&self) -> Result<HoldStats, EbpfError> {
        Ok(self.delivered.stats(self.parts.maps.counts()?))
    }

    /// How many segments found the handshake that they belong to by the gate's help. Tests ask whether there are any.
    ///
    /// # Errors
    /// Where the kernel does not give the count.
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
    fn arm(&mut self) -> Result<(), GateError> {
        let Some(programs) = &mut self.programs else { return Ok(()) };
        self.parts.maps.renew_lease()?;
        if let Err(error) = self.parts.maps.hold(&programs.keys) {
            return Err(joined(error, self.let_go().into_error()).into());
        }
        programs.armed = true;
        Ok(())
    }

    fn renew(&mut self) -> Result<(), GateError> {
        Ok(self.parts.maps.renew_lease()?)
    }

    fn doubt(&self) -> Option<String> {
        let behind = self.parts.attachments.iter().filter(|attachment| attachment.behind_others);
        let lapsed = || self.parts.maps.counts().is_ok_and(|[.., lapsed]| lapsed > 0);
        doubt_behind_others(behind.map(|attachment| attachment.device.name.as_str()))
            .or_else(|| lapsed().then(|| "SYNs passed while the lease of the hold had run out".into()))
    }

    fn follow(&mut self, meanwhile: &mut dyn FnMut()) -> Partial<bool> {
        let (done, trouble) = self.cover(meanwhile);
        Partial { done, trouble: trouble.map(Into::into) }
    }

    fn handover(&self) -> Result<Handover, GateError> {
        Ok(self.parts.handover()?)
    }

    fn deliver(&mut self) -> Partial<HoldStats> {
        if let Some(done) = self.final_stats {
            return Partial { done, trouble: None };
        }
        let mut failures = self.let_go();
        failures.note(self.refusals());
        let counted = failures.note(self.parts.maps.counts());
        let done = self.delivered.stats(counted.unwrap_or_default());
        self.final_stats = counted.map(|_| done);
        Partial { done, trouble: failures.into_error().map(Into::into) }
    }

    fn remove(&mut self) -> Result<(), GateError> {
        let stays = detach(std::mem::take(&mut self.parts.attachments));
        self.programs = None;
        stays.map_or(Ok(()), |error| Err(error.into()))
    }
}

impl Drop for EbpfGate {
    fn drop(&mut self) {
        if let Err(error) = self.release() {
            log::error!("{error}");
        }
    }
}

/// A mark that no other program knows.
fn secret_mark() -> Result<u32, EbpfError> {
    let mut bytes = [0; 4];
    getrandom(&mut bytes, GetRandomFlags::empty()).map_err(|error| EbpfError::Socket { source: error.into() })?;
    Ok(u32::from_ne_bytes(bytes).max(1))
}
