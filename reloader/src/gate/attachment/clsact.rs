//! Attaches a program by a filter of the `clsact` qdisc.

use std::error::Error;
use std::io;

use aya::programs::tc::{NlOptions, TcAttachOptions, TcHandle};
use aya::programs::{SchedClassifier, TcAttachType};
use rustix::io::Errno;

use super::ownership::{COUNTER, NAMES, clsact_is_ours, handle, is_behind_others, lowest_free};
use super::site::{AttachError, Site, unless_gone};
use crate::kernel::devices::Device;
use crate::kernel::tc::{self, Direction, Filter};

/// A filter, and whether filters of others come before it.
type Attached = Result<(Filter, bool), Box<dyn Error + Send + Sync>>;

/// The device has an `ingress`. The kernel takes no `clsact` beside it, and would put a filter for egress at ingress.
#[derive(Debug, thiserror::Error)]
#[error("it has an `ingress` qdisc, beside which the kernel takes no `clsact`")]
struct NoEgress;

/// Attaches the program. Adds the `clsact` where the device has none.
pub(super) fn attach(program: &mut SchedClassifier, site: Site<'_>) -> Attached {
    // aya attaches by name. For another name the kernel would say ENODEV, as for a device that has gone.
    if !site.device.has_readable_name() {
        return Err("a filter is attached by the device's name, which is not readable; rename the device".into());
    }
    let added = match tc::add_clsact(site.device.index) {
        Ok(()) => true,
        Err(error) if Errno::from_io_error(&error) == Some(Errno::EXIST) => false,
        Err(error) => return Err(error.into()),
    };
    let attached = add_filter(program, site, added);
    match attached {
        Err(error) if added => Err(match remove_unused_clsact(site.device) {
            Ok(()) => error,
            Err(AttachError { source, .. }) => {
                format!("{error}; also, the empty clsact that was added for it could not be removed: {source}").into()
            }
        }),
        attached => attached,
    }
}

fn add_filter(program: &mut SchedClassifier, site: Site<'_>, clsact_added: bool) -> Attached {
    let Site { device, direction, owner } = site;
    if direction == Direction::Egress && !clsact_added && !tc::qdisc::has_clsact(device.index)? {
        return Err(NoEgress.into());
    }
    // The last one of our filters to go removes the `clsact`, whichever of them came with it.
    let ours = clsact_added || filters_of(device)?.iter().any(|(_, filter)| clsact_is_ours(filter));
    // The first place is for a hold: a SYN that it parks is counted when it comes again.
    let first = if owner == COUNTER { 2 } else { 1 };
    let existing = tc::filters(device.index, direction)?;
    let priority = lowest_free(first, &existing);
    let (major, minor) = handle(owner, ours);
    let options = TcAttachOptions::Netlink(NlOptions { priority, handle: TcHandle::new(major, minor), classid: None });
    let attach_type = match direction {
        Direction::Ingress => TcAttachType::Ingress,
        Direction::Egress => TcAttachType::Egress,
    };
    let id = program.attach_with_options(&device.name, attach_type, options)?;
    let link = program.take_link(id)?;
    let preference = link.priority()?;
    // From here on the filter is known by its numbers, as in a process that did not attach it.
    std::mem::forget(link);
    let handle = u32::from(major) << 16 | u32::from(minor);
    Ok((Filter { preference, handle, program: Some(NAMES.to_owned()) }, is_behind_others(preference, &existing)))
}

/// Removes the filter, and the `clsact` where it is ours and not in use.
pub(super) fn detach(device: &Device, direction: Direction, filter: &Filter) -> Result<(), AttachError> {
    remove_filter(device, direction, filter)?;
    if clsact_is_ours(filter) { remove_unused_clsact(device) } else { Ok(()) }
}

/// All filters of a device.
pub(super) fn filters_of(device: &Device) -> io::Result<Vec<(Direction, Filter)>> {
    let mut all = Vec::new();
    for direction in [Direction::Ingress, Direction::Egress] {
        all.extend(tc::filters(device.index, direction)?.into_iter().map(|filter| (direction, filter)));
    }
    Ok(all)
}

pub(super) fn remove_filter(device: &Device, direction: Direction, filter: &Filter) -> Result<(), AttachError> {
    tc::remove_filter(device.index, direction, filter).or_else(unless_gone(device))
}

pub(super) fn remove_unused_clsact(device: &Device) -> Result<(), AttachError> {
    tc::remove_unused_clsact(device.index).map(drop).or_else(unless_gone(device))
}
