//! Boots a Debian with systemd (by systemd-nspawn) or with sysvinit (by unshare): in a disposable layer over a cached
//! root, with its own network.

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
