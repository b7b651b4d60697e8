//! The place where a program is attached, and the errors that can happen there.

use std::error::Error;
use std::io;

use rustix::io::Errno;

use super::ownership::Owner;
use crate::kernel::devices::Device;
use crate::kernel::tc::Direction;

/// Where a program is to be attached, and for which owner.
#[derive(Clone, Copy)]
pub(super) struct Site<'a> {
    pub(super) device: &'a Device,
    pub(super) direction: Direction,
    pub(super) owner: Owner,
}

/// What went wrong on a device.
#[derive(Debug)]
pub(crate) struct AttachError {
    /// The device's name.
    pub(crate) device: String,
    pub(crate) source: Box<dyn Error + Send + Sync>,
}

impl AttachError {
    pub(super) fn new(device: &Device, source: impl Into<Box<dyn Error + Send + Sync>>) -> AttachError {
        AttachError { device: device.name.clone(), source: source.into() }
    }
}

/// Whether the kernel said that the device has gone.
pub(super) fn device_is_gone(errno: Option<Errno>) -> bool {
    matches!(errno, Some(Errno::NODEV | Errno::NXIO))
}

/// For removals: what has gone needs none. For adding, ENOENT means something else: a kernel without `clsact` or `cls_bpf`.
pub(super) fn unless_gone<T: Default>(device: &Device) -> impl FnOnce(io::Error) -> Result<T, AttachError> {
    move |error| {
        let errno = Errno::from_io_error(&error);
        if device_is_gone(errno) || errno == Some(Errno::NOENT) {
            return Ok(T::default());
        }
        Err(AttachError::new(device, error))
    }
}
