//! A Debian with a really booted systemd (by systemd-nspawn) or sysvinit (by unshare): over a throw-away layer of a cached root, in a
//! network of its own.

mod host;
mod layer;
mod machine;
mod root;
mod setup;
mod sysvinit;

pub(crate) use host::first_process_under;
pub use machine::{Machine, Unit};
pub use root::{fetch, fetch_sysvinit};
pub use setup::Setup;
pub use sysvinit::{IN_GUEST, PROGRAM, SysVinit};
