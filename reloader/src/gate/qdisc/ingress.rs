//! The `ingress` or `clsact` of a device, which runs the filters.

use super::error::{QdiscError, is_taken};
use super::marks::{Ownership, marked};
use crate::kernel::devices::Device;
use crate::kernel::tc;
use crate::kernel::tc::qdisc::{INGRESS_FILTERS, Qdisc};

/// Adds an `ingress`, unless the device already has an `ingress` or a `clsact`. Returns whether this hold or another one added it.
pub(super) fn ensure_ingress(device: &Device, qdiscs: &[Qdisc]) -> Result<Ownership, QdiscError> {
    if !has_ingress(device.index, qdiscs) {
        match tc::add_ingress(device.index) {
            Ok(()) => return Ok(Ownership::Created),
            Err(error) if is_taken(&error) => {}
            Err(source) => return Err(QdiscError::adding(&device.name, "adding ingress", "sch_ingress", source)),
        }
    }
    // Another hold may have added the `ingress`. The hold that ends last removes it.
    let marked = marked(device.index, INGRESS_FILTERS).map_err(QdiscError::list("filters"))?;
    let ours = marked.iter().any(|marked| marked.ownership == Ownership::Created);
    Ok(if ours { Ownership::Created } else { Ownership::Borrowed })
}

/// Whether the device has an `ingress` or `clsact`.
pub(super) fn has_ingress(device: u32, qdiscs: &[Qdisc]) -> bool {
    qdiscs.iter().any(|qdisc| qdisc.device == device && ["ingress", "clsact"].contains(&qdisc.kind.as_str()))
}
