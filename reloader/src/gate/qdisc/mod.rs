//! The gate of kernels without bpf(2): u32 filters and the plug qdisc, Yelp's technique.
//!
//! A plug holds every packet that is put into it, from its creation until it is opened; filters put SYNs into it that are
//! for a held port of this host. For local clients it is a band of a `prio` on `lo`. Clients from outside are diverted on
//! the device on which they arrive to an ifb device whose plug sends them back into the same place.
//!
//! There is no lease: the holder needs a guard. Nothing is remembered that is not in the kernel too, so that a guard
//! ([`QdiscGate::restore`]) and a later process ([`remove_stale`]) end a hold as its holder would have.
//!
//! What the kernel imposes: adding or removing a root qdisc, `ingress` or `clsact` makes the device lose what it is given to
//! send for a moment (`dev_deactivate` in `qdisc_graft`, net/sched/sch_api.c). A device that has an `ingress` or `clsact`
//! already is spared that; `lo` is not.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::gate::hold::{Gate, Handover, HoldError, HoldStats, Living, Partial, Spec, behind_others};
use crate::kernel::addresses::{self, Prefix};
use crate::kernel::devices::{self, Device, LO, receivers};
use crate::kernel::tc;
use crate::kernel::tc::qdisc::{self, INGRESS_FILTERS, Qdisc};
use crate::kernel::tc::u32_filter::U32Action;

mod coverage;
mod discovery;
mod error;
mod filters;
mod layout;
mod plugs;

use coverage::{Coverage, coverage};
pub use error::QdiscError;
use filters::{Closed, Ownership, Side};
use layout::{Layout, layouts};
use plugs::PRIO;

/// How long is waited for what the kernel does soon.
const EMPTY_TIMEOUT: Duration = Duration::from_secs(5);

/// A hold by qdisc. [`HoldStats::longest`] is the time from arm to release (of a restored gate: from restore) if anything was
/// held: the longest that a SYN can have been parked. A plug has no times of its packets.
#[derive(Debug)]
pub struct QdiscGate {
    spec: Spec,
    /// By the device's number.
    sites: BTreeMap<u32, Site>,
    /// The class of the plug on `lo`.
    lo: Option<u32>,
    ifb: Option<u32>,
    armed: Option<Instant>,
    released: HoldStats,
}

/// A device's filters.
#[derive(Debug)]
struct Site {
    name: String,
    coverage: Coverage,
    filters: Vec<(Closed, Layout)>,
    /// Whether filters of others stand before ours.
    behind_others: bool,
}

impl QdiscGate {
    /// Makes the plugs, and puts the filters where they will be needed. Nothing is diverted yet.
    ///
    /// # Errors
    /// Where this machine does not offer the gate, or the kernel refuses. Nothing is left then.
    pub fn prepare(spec: &Spec) -> Result<Self, QdiscError> {
        if discovery::find()?.contains_key(&spec.id) {
            return Err(QdiscError::IdTaken { id: spec.id });
        }
        let mut gate = Self::unprepared(spec.clone());
        gate.cover(&mut || ())?;
        Ok(gate)
    }

    /// The gate of a holder that has died, to release it in its place.
    ///
    /// # Errors
    /// Where the manifest is not one of this gate's.
    pub fn restore(keepsake: &Handover) -> Result<Self, QdiscError> {
        let id = keepsake.manifest.get(HOLD).and_then(serde_json::Value::as_u64).and_then(|id| u16::try_from(id).ok());
        let id = id.ok_or_else(|| QdiscError::Manifest { manifest: keepsake.manifest.clone() })?;
        let spec = Spec { id, targets: Vec::new(), exceptions: Vec::new(), capacity: 0 };
        let mut gate = Self::unprepared(spec);
        gate.armed = Some(Instant::now());
        Ok(gate)
    }

    fn unprepared(spec: Spec) -> Self {
        Self { spec, sites: BTreeMap::new(), lo: None, ifb: None, armed: None, released: HoldStats::default() }
    }

    /// Brings the filters of all devices up to date.
    fn cover(&mut self, meanwhile: &mut dyn FnMut()) -> Result<(), QdiscError> {
        let devices = devices::list().map_err(QdiscError::list("devices"))?;
        let local = addresses::local_prefixes().map_err(QdiscError::list("addresses"))?;
        let qdiscs = qdisc::list().map_err(QdiscError::list("qdiscs"))?;
        let receivers: Vec<&Device> =
            receivers(&devices).into_iter().filter(|device| plugs::ifb_of(device).is_none()).collect();

        self.forget(&devices, &receivers, &qdiscs);
        let mut first_error = None;
        for device in receivers {
            match self.cover_device(device, &local, &qdiscs, meanwhile) {
                Err(error) if vanished(device, &error) => drop(self.sites.remove(&device.index)),
                Err(error) => drop(first_error.get_or_insert(error)),
                Ok(()) => {}
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    /// What was taken away by others is put there again by [`cover_device`](Self::cover_device).
    fn forget(&mut self, devices: &[Device], receivers: &[&Device], qdiscs: &[Qdisc]) {
        self.sites.retain(|index, site| {
            if receivers.iter().any(|device| device.index == *index) {
                return *index == LO || ingress_of(*index, qdiscs).is_some();
            }
            if devices.iter().any(|device| device.index == *index) {
                site.remove();
            }
            false
        });
    }

    fn cover_device(
        &mut self,
        device: &Device,
        local: &[Prefix],
        qdiscs: &[Qdisc],
        meanwhile: &mut dyn FnMut(),
    ) -> Result<(), QdiscError> {
        meanwhile();
        let coverage = coverage(&self.spec, device, local);
        if self.sites.get(&device.index).map(|site| &site.coverage).unwrap_or(&Coverage::new()) == &coverage {
            return Ok(());
        }
        // The new filters come before the old ones go: no SYN passes between.
        let new = if coverage.is_empty() { None } else { Some(self.install(device, coverage, qdiscs)?) };
        let old = match new {
            Some(site) => self.sites.insert(device.index, site),
            None => self.sites.remove(&device.index),
        };
        if let Some(old) = old {
            meanwhile();
            old.remove();
        }
        Ok(())
    }

    fn install(&mut self, device: &Device, coverage: Coverage, qdiscs: &[Qdisc]) -> Result<Site, QdiscError> {
        let layouts = layouts(&coverage)?;
        let (side, hold) = if device.index == LO { self.side_of_lo()? } else { self.side_of(device, qdiscs)? };
        let others = filters::of_others(side.device, side.parent).map_err(QdiscError::list("filters"))?;
        let mut site =
            Site { name: device.name.clone(), coverage, filters: Vec::new(), behind_others: !others.is_empty() };
        for layout in layouts {
            match Closed::install(&side, self.spec.id, &layout, hold) {
                Ok(closed) => site.filters.push((closed, layout)),
                Err(error) => {
                    site.remove();
                    return Err(error);
                }
            }
        }
        if self.armed.is_some() {
            site.open()?;
        }
        Ok(site)
    }

    fn side_of_lo(&mut self) -> Result<(Side<'static>, U32Action<u32>), QdiscError> {
        let class = match self.lo {
            Some(class) => class,
            None => *self.lo.insert(plugs::make_on_lo(self.spec.id, self.spec.capacity)?),
        };
        Ok((Side { device: LO, name: "lo", parent: PRIO, ownership: Ownership::Created }, U32Action::Class(class)))
    }

    fn side_of<'a>(&mut self, device: &'a Device, qdiscs: &[Qdisc]) -> Result<(Side<'a>, U32Action<u32>), QdiscError> {
        let ifb = match self.ifb {
            Some(ifb) => ifb,
            None => *self.ifb.insert(plugs::make_ifb(self.spec.id, self.spec.capacity)?),
        };
        let mark = ensure_ingress(device, qdiscs)?;
        Ok((
            Side { device: device.index, name: &device.name, parent: INGRESS_FILTERS, ownership: mark },
            U32Action::Redirect(ifb),
        ))
    }

    fn open(&self) -> Result<(), QdiscError> {
        self.sites.values().try_for_each(Site::open)
    }
}

impl Site {
    fn open(&self) -> Result<(), QdiscError> {
        self.filters.iter().try_for_each(|(closed, layout)| closed.open(&self.name, layout))
    }

    /// What fails here is found by its mark when the hold is released.
    fn remove(&self) {
        for (closed, _) in &self.filters {
            if let Err(error) = closed.filters().remove() {
                log::warn!("filters of a hold stay on {} until it is released: {error}", self.name);
            }
        }
    }
}

const HOLD: &str = "hold";

impl Gate for QdiscGate {
    fn arm(&mut self) -> Result<(), HoldError> {
        self.armed = Some(Instant::now());
        let opened = self.open();
        if opened.is_err() {
            // The first error is the one to report.
            let _ = self.release();
        }
        Ok(opened?)
    }

    /// Nothing to do: a plug has no lease.
    fn renew(&mut self) -> Result<(), HoldError> {
        Ok(())
    }

    /// Never another keepsake: the id is all that it has.
    fn follow(&mut self, meanwhile: &mut dyn FnMut()) -> Partial<bool> {
        Partial { done: false, trouble: self.cover(meanwhile).err().map(Into::into) }
    }

    fn keepsake(&self) -> Result<Handover, HoldError> {
        Ok(Handover { manifest: serde_json::json!({ HOLD: self.spec.id }), descriptors: Vec::new() })
    }

    fn deliver(&mut self) -> Partial<HoldStats> {
        let (figures, trouble) = discovery::deliver(self.spec.id);
        if figures != HoldStats::default() {
            let parked = self.armed.filter(|_| figures.held > 0).map_or(Duration::ZERO, |armed| armed.elapsed());
            self.released = HoldStats { longest: parked, ..figures };
        }
        self.armed = None;
        Partial { done: self.released, trouble: trouble.map(Into::into) }
    }

    fn remove(&mut self) -> Result<(), HoldError> {
        discovery::dismantle(self.spec.id)?;
        self.sites.clear();
        (self.lo, self.ifb) = (None, None);
        Ok(())
    }

    fn doubt(&self) -> Option<String> {
        let behind = self.sites.values().filter(|site| site.behind_others);
        behind_others(behind.map(|site| site.name.as_str()))
    }
}

impl Drop for QdiscGate {
    fn drop(&mut self) {
        if let Err(error) = discovery::dismantle(self.spec.id) {
            log::error!("{error}");
        }
    }
}

/// Ends, in the calling thread's network namespace, the holds whose holder and guard were killed: parked SYNs are
/// delivered, and nothing is left. Returns how many there were.
///
/// # Errors
/// Where the kernel does not list what there is, or something could not be removed, after everything else was.
pub fn remove_stale(living: &Living) -> Result<usize, QdiscError> {
    let mut first_error = None;
    let mut removed = 0;
    for id in discovery::find()?.into_keys().filter(|id| !living.contains(id)) {
        match discovery::dismantle(id) {
            Ok(_) => removed += 1,
            Err(error) => drop(first_error.get_or_insert(error)),
        }
    }
    discovery::remove_unused_prio()
        .or_else(|error| if error::is_gone(&error) { Ok(()) } else { Err(error) })
        .map_err(|source| QdiscError::LeftBehind { id: 0, what: "the prio on lo", source })?;
    first_error.map_or(Ok(removed), Err)
}

/// Puts the prio on `lo`, to stay between holds until [`release_prio`].
///
/// # Errors
/// Where `lo` has another root qdisc, or the kernel has no prio.
pub(crate) fn keep_prio() -> Result<(), QdiscError> {
    plugs::keep_prio()
}

/// Undoes [`keep_prio`], as soon as no hold needs it.
///
/// # Errors
/// Where the kernel refuses.
pub(crate) fn release_prio() -> Result<(), QdiscError> {
    plugs::release_prio().map_err(|source| QdiscError::LeftBehind { id: 0, what: "the prio on lo", source })
}

/// Whose making the `ingress` or `clsact` of the device is; adds one if there is none.
fn ensure_ingress(device: &Device, qdiscs: &[Qdisc]) -> Result<Ownership, QdiscError> {
    if ingress_of(device.index, qdiscs).is_none() {
        match tc::add_ingress(device.index) {
            Ok(()) => return Ok(Ownership::Created),
            Err(error) if error::is_taken(&error) => {}
            Err(source) => return Err(QdiscError::adding(&device.name, "adding ingress", "sch_ingress", source)),
        }
    }
    // The last of several holds removes what one of them has made.
    let marked = filters::marked(device.index, INGRESS_FILTERS).map_err(QdiscError::list("filters"))?;
    let ours = marked.iter().any(|(_, mark, _)| *mark == Ownership::Created);
    Ok(if ours { Ownership::Created } else { Ownership::Borrowed })
}

fn ingress_of(device: u32, qdiscs: &[Qdisc]) -> Option<&Qdisc> {
    qdiscs.iter().find(|qdisc| qdisc.device == device && ["ingress", "clsact"].contains(&qdisc.kind.as_str()))
}

/// A device that has gone holds nobody up.
fn vanished(device: &Device, error: &QdiscError) -> bool {
    use rustix::io::Errno;
    let gone = |source: &std::io::Error| matches!(Errno::from_io_error(source), Some(Errno::NODEV | Errno::NXIO));
    match error {
        QdiscError::Device { source, .. } | QdiscError::List { source, .. } => device.index != LO && gone(source),
        _ => false,
    }
}

/// Tries until there is a result, as long as the kernel may take.
#[expect(
    clippy::disallowed_methods,
    reason = "only the thread of a hold, its guard, and clean-ups wait here, for EMPTY_TIMEOUT at most"
)]
fn patiently<T>(mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + EMPTY_TIMEOUT;
    loop {
        match attempt() {
            None if Instant::now() < end => sleep(Duration::from_millis(1)),
            result => return result,
        }
    }
}
