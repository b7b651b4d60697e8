//! A tc program on one device, and nothing of it afterwards.

use std::error::Error;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use aya::programs::tc::{NlOptions, TcAttachOptions, TcHandle};
use aya::programs::{SchedClassifier, TcAttachType};
use rustix::io::Errno;

use crate::kernel::bpf::errno;
use crate::kernel::devices::Device;
use crate::kernel::tc::{self, Direction, Filter};
use crate::sys::{TcxHook, attach_tcx, detach_link};

/// The upper half of the handles of our filters: together with the program's name it says that a filter is ours.
const MARK: u16 = 0x5e1d;
/// In the lower half, on a device whose `clsact` is our making. It has to be known after a `kill -9` too. Beside it stands the
/// [`Owner`].
const CLSACT_IS_OURS: u16 = 0x8000;
/// What the names of all our programs begin with.
const NAMES: &str = "reloader_";

/// Whose filter it is: [`COUNTER`], or the id of a hold.
pub(crate) type Owner = u16;
/// The SYN counter. No hold has this id.
pub(crate) const COUNTER: Owner = 0;

/// How a program gets into the packet path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// From Linux 6.6 on: goes with the processes that have it open.
    Tcx,
    /// A filter of the `clsact` qdisc: stays until somebody removes it.
    Clsact,
}

/// A program on a device.
#[derive(Debug)]
pub(crate) struct Attachment {
    pub(crate) device: Device,
    pub(crate) direction: Direction,
    pub(crate) way: Way,
    /// Filters of others see a packet first, and may decide on it.
    pub(crate) behind_others: bool,
}

/// What holds a program in its place.
#[derive(Debug)]
pub(crate) enum Way {
    /// The link.
    Tcx(OwnedFd),
    /// A filter.
    Clsact(Filter),
}

/// A device and what went wrong there.
#[derive(Debug)]
pub(crate) struct AttachError {
    pub(crate) device: String,
    pub(crate) source: Box<dyn Error + Send + Sync>,
}

/// `ingress` and `clsact` exclude each other, and `ingress` takes what is meant for the way out for one more on the way in.
#[derive(Debug, thiserror::Error)]
#[error("it has an `ingress` qdisc, beside which the kernel takes no `clsact`")]
pub(crate) struct NoWayOut;

impl Attachment {
    /// Attaches the program before all others, so that what they drop was seen. `None` where the device has vanished.
    /// Without a `hook`, TCX is tried first, and what was found is kept there.
    pub(crate) fn make(
        program: &mut SchedClassifier,
        hook: &mut Option<Hook>,
        device: &Device,
        direction: Direction,
        owner: Owner,
    ) -> Result<Option<Self>, AttachError> {
        let made = match *hook {
            Some(Hook::Clsact) => by_clsact(program, device, direction, owner),
            Some(Hook::Tcx) => by_tcx(program, device, direction),
            None => match by_tcx(program, device, direction) {
                // bpf(2) does not know the attach type.
                Err(error) if errno(error.as_ref()) == Some(Errno::INVAL) => {
                    *hook = Some(Hook::Clsact);
                    by_clsact(program, device, direction, owner)
                }
                made => {
                    *hook = made.is_ok().then_some(Hook::Tcx);
                    made
                }
            },
        };
        match made {
            Ok((way, behind_others)) => Ok(Some(Self { device: device.clone(), direction, way, behind_others })),
            Err(error) if device_is_gone(errno(error.as_ref())) => Ok(None),
            Err(source) => Err(AttachError { device: device.name.clone(), source }),
        }
    }

    /// Takes the program off. A device that is gone took it along.
    pub(crate) fn remove(self) -> Result<(), AttachError> {
        match self.way {
            Way::Tcx(link) => detach_link(link.as_fd()).or_else(unless_gone(&self.device)),
            Way::Clsact(filter) => remove_filter(&self.device, self.direction, &filter)
                .and_then(|()| if clsact_is_ours(&filter) { remove_unused_clsact(&self.device) } else { Ok(()) }),
        }
    }
}

/// With whether it stands behind others.
type Made = Result<(Way, bool), Box<dyn Error + Send + Sync>>;

fn by_tcx(program: &mut SchedClassifier, device: &Device, direction: Direction) -> Made {
    let hook = match direction {
        Direction::Ingress => TcxHook::Ingress,
        Direction::Egress => TcxHook::Egress,
    };
    Ok((Way::Tcx(attach_tcx(program.fd()?.as_fd(), device.index, hook)?), false))
}

fn by_clsact(program: &mut SchedClassifier, device: &Device, direction: Direction, owner: Owner) -> Made {
    // aya attaches by name: the kernel would say ENODEV, as for a device that has gone.
    if !device.has_readable_name() {
        return Err("a filter can be put on it by its name only; give it another".into());
    }
    let made = match tc::add_clsact(device.index) {
        Ok(()) => true,
        Err(error) if Errno::from_io_error(&error) == Some(Errno::EXIST) => false,
        Err(error) => return Err(error.into()),
    };
    let attached = filter(program, device, direction, owner, made);
    if attached.is_err() && made {
        let _ = remove_unused_clsact(device);
    }
    attached
}

fn filter(
    program: &mut SchedClassifier,
    device: &Device,
    direction: Direction,
    owner: Owner,
    clsact_made: bool,
) -> Made {
    if direction == Direction::Egress && !clsact_made && !tc::qdisc::has_clsact(device.index)? {
        return Err(NoWayOut.into());
    }
    // The last one of ours to go removes it, whichever of us has made it.
    let ours = clsact_made || of_device(device)?.iter().any(|(_, filter)| clsact_is_ours(filter));
    // The first place is for a hold: a SYN that it parks is counted when it comes again.
    let first = if owner == COUNTER { 2 } else { 1 };
    let there = tc::filters(device.index, direction)?;
    let preference = lowest_free(first, &there);
    let minor = owner | if ours { CLSACT_IS_OURS } else { 0 };
    let options =
        TcAttachOptions::Netlink(NlOptions { priority: preference, handle: TcHandle::new(MARK, minor), classid: None });
    let way = match direction {
        Direction::Ingress => TcAttachType::Ingress,
        Direction::Egress => TcAttachType::Egress,
    };
    let id = program.attach_with_options(&device.name, way, options)?;
    let link = program.take_link(id)?;
    let preference = link.priority()?;
    // From here on the filter is told by its numbers, as in a process that did not attach it.
    std::mem::forget(link);
    let handle = u32::from(MARK) << 16 | u32::from(minor);
    let filter = Filter { preference, handle, program: Some(NAMES.to_owned()) };
    Ok((Way::Clsact(filter), is_behind_others(preference, &there)))
}

/// Removes the filters that the predicate says to be of no living owner, by the program's name and the owner, from the devices of
/// the calling thread's network namespace; and the `clsact` that was made for them, if nobody else uses it. TCX leaves nothing.
pub(crate) fn remove_left_behind(
    devices: &[Device],
    is_left_behind: impl Fn(&str, Owner) -> bool,
) -> Result<usize, AttachError> {
    let mut removed = 0;
    let mut first_error = None;
    for device in devices {
        match remove_left_behind_on(device, &is_left_behind) {
            Ok(count) => removed += count,
            Err(error) => drop(first_error.get_or_insert(error)),
        }
    }
    first_error.map_or(Ok(removed), Err)
}

fn remove_left_behind_on(device: &Device, is_left_behind: &impl Fn(&str, Owner) -> bool) -> Result<usize, AttachError> {
    let mut filters = of_device(device).or_else(|error| unless_gone::<Vec<_>>(device)(error))?;
    filters.retain(|(_, filter)| owner(filter).is_some_and(|(name, owner)| is_left_behind(name, owner)));
    for (direction, filter) in &filters {
        remove_filter(device, *direction, filter)?;
    }
    if filters.iter().any(|(_, filter)| clsact_is_ours(filter)) {
        remove_unused_clsact(device)?;
    }
    Ok(filters.len())
}

/// The program's name and the owner, of a filter of ours.
fn owner(filter: &Filter) -> Option<(&str, Owner)> {
    let name = filter.program.as_deref().filter(|name| name.starts_with(NAMES))?;
    ((filter.handle >> 16) as u16 == MARK).then_some((name, filter.handle as u16 & !CLSACT_IS_OURS))
}

fn clsact_is_ours(filter: &Filter) -> bool {
    owner(filter).is_some() && filter.handle as u16 & CLSACT_IS_OURS != 0
}

fn of_device(device: &Device) -> io::Result<Vec<(Direction, Filter)>> {
    let mut all = Vec::new();
    for direction in [Direction::Ingress, Direction::Egress] {
        all.extend(tc::filters(device.index, direction)?.into_iter().map(|filter| (direction, filter)));
    }
    Ok(all)
}

fn remove_filter(device: &Device, direction: Direction, filter: &Filter) -> Result<(), AttachError> {
    tc::remove_filter(device.index, direction, filter).or_else(unless_gone(device))
}

fn remove_unused_clsact(device: &Device) -> Result<(), AttachError> {
    tc::remove_unused_clsact(device.index).map(drop).or_else(unless_gone(device))
}

/// What has gone needs no removal. When adding, ENOENT has another meaning: a kernel without `clsact` or `cls_bpf`.
fn unless_gone<T: Default>(device: &Device) -> impl FnOnce(io::Error) -> Result<T, AttachError> {
    move |error| {
        let errno = Errno::from_io_error(&error);
        if device_is_gone(errno) || errno == Some(Errno::NOENT) {
            return Ok(T::default());
        }
        Err(AttachError { device: device.name.clone(), source: error.into() })
    }
}

fn device_is_gone(errno: Option<Errno>) -> bool {
    matches!(errno, Some(Errno::NODEV | Errno::NXIO))
}

fn lowest_free(first: u16, filters: &[Filter]) -> u16 {
    (first..u16::MAX)
        .find(|preference| filters.iter().all(|filter| filter.preference != *preference))
        // 0 lets the kernel choose, and say why it cannot.
        .unwrap_or(0)
}

/// Ours let go on what is not theirs.
fn is_behind_others(preference: u16, there: &[Filter]) -> bool {
    let is_ours = |place: u16| there.iter().any(|filter| filter.preference == place && owner(filter).is_some());
    there.iter().any(|filter| filter.preference < preference && !is_ours(filter.preference))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(preference: u16, handle: u32, program: Option<&str>) -> Filter {
        Filter { preference, handle, program: program.map(Into::into) }
    }

    #[test]
    fn the_lowest_free_preference_comes_before_everybody_it_can() {
        assert_eq!(lowest_free(1, &[]), 1);
        assert_eq!(lowest_free(1, &[filter(49152, 1, None), filter(2, 1, None)]), 1);
        assert_eq!(lowest_free(1, &[filter(1, 0, None), filter(1, 1, None), filter(3, 1, None)]), 2);
        assert_eq!(lowest_free(2, &[filter(2, 1, None)]), 3);
    }

    #[test]
    fn who_stands_before_us_is_somebody_else_unless_it_is_ours() {
        let ours = [filter(1, 0, None), filter(1, 0x5e1d_0007, Some("reloader_hold"))];
        assert!(!is_behind_others(2, &ours) && !is_behind_others(2, &[]));
        let other = filter(2, 1, Some("cil_from_netdev"));
        assert!(is_behind_others(3, &[&ours[..], std::slice::from_ref(&other)].concat()));
        assert!(!is_behind_others(1, &[other]));
    }

    #[test]
    fn only_name_and_handle_together_make_a_filter_ours() {
        let name = Some("reloader_syns");
        assert_eq!(owner(&filter(1, 0x5e1d_0000, name)), Some(("reloader_syns", 0)));
        assert_eq!(owner(&filter(7, 0x5e1d_8007, name)), Some(("reloader_syns", 7)));
        assert_eq!(owner(&filter(1, 1, name)), None);
        assert_eq!(owner(&filter(1, 0x5e1d_0001, Some("cil_from_netdev"))), None);
        assert_eq!(owner(&filter(1, 0x5e1d_8001, None)), None);
        assert!(clsact_is_ours(&filter(7, 0x5e1d_8007, name)));
        assert!(!clsact_is_ours(&filter(7, 0x5e1d_0007, name)));
        assert!(!clsact_is_ours(&filter(7, 0x5e1d_8007, Some("cil_from_netdev"))));
    }
}
