//! Attaches a program to a device, by TCX or by `clsact`, and detaches it.

use std::error::Error;
use std::os::fd::{AsFd as _, OwnedFd};

use aya::programs::SchedClassifier;
use rustix::io::Errno;

use super::clsact;
use super::ownership::Owner;
use super::site::{AttachError, Site, device_is_gone, unless_gone};
use crate::kernel::bpf::errno;
use crate::kernel::devices::Device;
use crate::kernel::tc::{Direction, Filter};
use crate::sys::{TcxHook, attach_tcx, detach_link};

/// How a program gets into the packet path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// TCX, from Linux 6.6 on. The kernel detaches the program when the last process that has the link open closes it.
    Tcx,
    /// A filter of the `clsact` qdisc. The program stays until the filter is removed.
    Clsact,
}

/// A program on a device.
#[derive(Debug)]
pub(crate) struct Attachment {
    pub(crate) device: Device,
    pub(crate) direction: Direction,
    pub(crate) way: Way,
    /// Whether filters of other programs see a packet first, and may decide on it.
    pub(crate) behind_others: bool,
}

/// What keeps a program on its device.
#[derive(Debug)]
pub(crate) enum Way {
    /// The link.
    Tcx(OwnedFd),
    /// A filter.
    Clsact(Filter),
}

/// How a program was attached, and whether it is behind others.
type Attached = Result<(Way, bool), Box<dyn Error + Send + Sync>>;

impl Attachment {
    /// Attaches the program before all others, so that it sees what they drop. `None` where the device has vanished. Without a `hook`,
    /// TCX is tried first, and what was found is kept there.
    pub(crate) fn attach(
        program: &mut SchedClassifier,
        hook: &mut Option<Hook>,
        device: &Device,
        direction: Direction,
        owner: Owner,
    ) -> Result<Option<Self>, AttachError> {
        let site = Site { device, direction, owner };
        let attached = match *hook {
            Some(Hook::Clsact) => attach_by_clsact(program, site),
            Some(Hook::Tcx) => attach_by_tcx(program, site),
            None => match attach_by_tcx(program, site) {
                // bpf(2) does not know the attach type.
                Err(error) if errno(error.as_ref()) == Some(Errno::INVAL) => {
                    *hook = Some(Hook::Clsact);
                    attach_by_clsact(program, site)
                }
                attached => {
                    *hook = attached.is_ok().then_some(Hook::Tcx);
                    attached
                }
            },
        };
        match attached {
            Ok((way, behind_others)) => Ok(Some(Self { device: device.clone(), direction, way, behind_others })),
            Err(error) if device_is_gone(errno(error.as_ref())) => Ok(None),
            Err(source) => Err(AttachError::new(device, source)),
        }
    }

    /// Detaches the program. Where the device has gone, the kernel has removed the program with it.
    pub(crate) fn remove(self) -> Result<(), AttachError> {
        match self.way {
            Way::Tcx(link) => detach_link(link.as_fd()).or_else(unless_gone(&self.device)),
            Way::Clsact(filter) => clsact::detach(&self.device, self.direction, &filter),
        }
    }
}

fn attach_by_tcx(program: &mut SchedClassifier, site: Site<'_>) -> Attached {
    let hook = match site.direction {
        Direction::Ingress => TcxHook::Ingress,
        Direction::Egress => TcxHook::Egress,
    };
    Ok((Way::Tcx(attach_tcx(program.fd()?.as_fd(), site.device.index, hook)?), false))
}

fn attach_by_clsact(program: &mut SchedClassifier, site: Site<'_>) -> Attached {
    clsact::attach(program, site).map(|(filter, behind_others)| (Way::Clsact(filter), behind_others))
}
