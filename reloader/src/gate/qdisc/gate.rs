//! The qdisc gate.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::coverage::{Coverage, coverage};
use super::delivery;
use super::discovery;
use super::dismantle::dismantle;
use super::error::QdiscError;
use super::ingress::{ensure_ingress, has_ingress};
use super::install::ClosedFilters;
use super::layout::layouts;
use super::lo_prio::PRIO;
use super::marks::{Ownership, Side, of_others};
use super::plugs;
use super::site::Site;
use crate::gate::contract::{Gate, GateError, Handover, HoldStats, Partial, Spec, doubt_behind_others};
use crate::gate::failures::{Failures, joined};
use crate::kernel::addresses::{self, Prefix};
use crate::kernel::devices::{self, Device, LO, receivers};
use crate::kernel::tc::qdisc::{self, INGRESS_FILTERS, Qdisc};
use crate::kernel::tc::u32_filter::U32Action;

/// The key of the hold's id in the manifest.
const HOLD: &str = "hold";

/// Holds SYNs by qdisc.
///
/// A plug does not know when its packets came. So [`HoldStats::longest`] is the time from arm to release, if anything was held: the
/// longest for which a SYN can have been parked. For a restored gate it is the time from restore to release.
#[derive(Debug)]
pub struct QdiscGate {
    spec: Spec,
    /// By the index of the device.
    sites: BTreeMap<u32, Site>,
    /// The class of the plug on `lo`.
    lo: Option<u32>,
    /// The index of the ifb device.
    ifb: Option<u32>,
    armed: Option<Instant>,
    released: HoldStats,
}

impl QdiscGate {
    /// Adds the plugs, and puts the filters where they will be needed. Nothing is diverted yet.
    ///
    /// # Errors
    /// Where this machine does not offer the gate, or the kernel refuses. Nothing is left in the kernel then.
    pub fn prepare(spec: &Spec) -> Result<Self, QdiscError> {
        if discovery::find()?.contains_key(&spec.id) {
            return Err(QdiscError::IdTaken { id: spec.id });
        }
        let mut gate = Self::unprepared(spec.clone());
        gate.cover(&mut || ())?;
        Ok(gate)
    }

    /// The gate of a dead holder, as its guard gets it: it can be renewed and released.
    ///
    /// # Errors
    /// Where the manifest is not that of a qdisc gate.
    pub fn restore(handover: &Handover) -> Result<Self, QdiscError> {
        let id = handover.manifest.get(HOLD).and_then(serde_json::Value::as_u64).and_then(|id| u16::try_from(id).ok());
        let id = id.ok_or_else(|| QdiscError::Manifest { manifest: handover.manifest.clone() })?;
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
        let mut failures = Failures::new();
        for device in receivers {
            match self.cover_device(device, &local, &qdiscs, meanwhile) {
                Err(error) if vanished(device, &error) => drop(self.sites.remove(&device.index)),
                covered => drop(failures.note(covered)),
            }
        }
        failures.into_result(())
    }

    /// Forgets devices that have gone or no longer hand packets to IP, and devices whose qdisc another program has removed.
    /// [`cover_device`](Self::cover_device) covers the latter again.
    fn forget(&mut self, devices: &[Device], receivers: &[&Device], qdiscs: &[Qdisc]) {
        self.sites.retain(|index, site| {
            if receivers.iter().any(|device| device.index == *index) {
                return *index == LO || has_ingress(*index, qdiscs);
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
        // The new filters are added before the old ones are removed: no SYN passes between.
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
        let others = of_others(side.device, side.parent).map_err(QdiscError::list("filters"))?;
        let mut site =
            Site { name: device.name.clone(), coverage, filters: Vec::new(), behind_others: !others.is_empty() };
        for layout in layouts {
            match ClosedFilters::install(&side, self.spec.id, &layout, hold) {
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

    /// Where filters for local clients go, and what becomes of their SYNs. Adds the plug where there is none yet.
    fn side_of_lo(&mut self) -> Result<(Side<'static>, U32Action<u32>), QdiscError> {
        let class = match self.lo {
            Some(class) => class,
            None => *self.lo.insert(plugs::add_on_lo(self.spec.id, self.spec.capacity)?),
        };
        Ok((Side { device: LO, name: "lo", parent: PRIO, ownership: Ownership::Created }, U32Action::Class(class)))
    }

    /// Where filters for clients from outside go, and what becomes of their SYNs. Adds the ifb device where there is none yet.
    fn side_of<'a>(&mut self, device: &'a Device, qdiscs: &[Qdisc]) -> Result<(Side<'a>, U32Action<u32>), QdiscError> {
        let ifb = match self.ifb {
            Some(ifb) => ifb,
            None => *self.ifb.insert(plugs::add_ifb(self.spec.id, self.spec.capacity)?),
        };
        let ownership = ensure_ingress(device, qdiscs)?;
        Ok((
            Side { device: device.index, name: &device.name, parent: INGRESS_FILTERS, ownership },
            U32Action::Redirect(ifb),
        ))
    }
}

impl Gate for QdiscGate {
    fn arm(&mut self) -> Result<(), GateError> {
        self.armed = Some(Instant::now());
        match self.sites.values().try_for_each(Site::open) {
            Ok(()) => Ok(()),
            Err(error) => Err(joined(error.into(), self.release().err())),
        }
    }

    /// Nothing to do: a plug has no lease.
    fn renew(&mut self) -> Result<(), GateError> {
        Ok(())
    }

    /// The guard never needs a new handover: the id is all that it gets.
    fn follow(&mut self, meanwhile: &mut dyn FnMut()) -> Partial<bool> {
        Partial { done: false, trouble: self.cover(meanwhile).err().map(Into::into) }
    }

    fn handover(&self) -> Result<Handover, GateError> {
        Ok(Handover { manifest: serde_json::json!({ HOLD: self.spec.id }), descriptors: Vec::new() })
    }

    fn deliver(&mut self) -> Partial<HoldStats> {
        let (stats, trouble) = delivery::deliver(self.spec.id);
        if stats != HoldStats::default() {
            let parked = self.armed.filter(|_| stats.held > 0).map_or(Duration::ZERO, |armed| armed.elapsed());
            self.released = HoldStats { longest: parked, ..stats };
        }
        self.armed = None;
        Partial { done: self.released, trouble: trouble.map(Into::into) }
    }

    fn remove(&mut self) -> Result<(), GateError> {
        dismantle(self.spec.id)?;
        self.sites.clear();
        (self.lo, self.ifb) = (None, None);
        Ok(())
    }

    fn doubt(&self) -> Option<String> {
        let behind = self.sites.values().filter(|site| site.behind_others);
        doubt_behind_others(behind.map(|site| site.name.as_str()))
    }
}

impl Drop for QdiscGate {
    fn drop(&mut self) {
        if let Err(error) = dismantle(self.spec.id) {
            log::error!("{error}");
        }
    }
}

/// Whether it failed because the device has gone. Then there is nothing to hold.
fn vanished(device: &Device, error: &QdiscError) -> bool {
    let gone = |source: &std::io::Error| matches!(Errno::from_io_error(source), Some(Errno::NODEV | Errno::NXIO));
    match error {
        QdiscError::Device { source, .. } | QdiscError::List { source, .. } => device.index != LO && gone(source),
        _ => false,
    }
}
