//! The eBPF programs, as `cargo xtask build-ebpf` built them from `reloader-ebpf`.

use std::net::IpAddr;

use reloader_ebpf::{Address, any_address, v4_mapped, v6};

/// The object that holds those that every kernel with bpf(2) takes.
pub(crate) static OBJECT: &[u8] = aya::include_bytes_aligned!("programs/reloader.o");

/// The object that holds those of a hold.
pub(crate) static HOLD_OBJECT: &[u8] = aya::include_bytes_aligned!("programs/hold.o");

/// The tc program that counts SYNs; `tc filter show` calls it so too.
pub(crate) const SYN_PROGRAM: &str = "reloader_syns";

/// The tc program that parks SYNs.
pub(crate) const HOLD_PROGRAM: &str = "reloader_hold";

/// The tc program that turns delivered SYNs back into the device that they came by.
pub(crate) const BACK_PROGRAM: &str = "reloader_back";

/// The sk_reuseport program that loads only where the kernel migrates connections.
pub(crate) const MIGRATION_PROBE: &str = "reloader_can_migrate";

/// What version of the interface the object was built for: it says so by the size of a map that has no other use.
pub(crate) fn abi_version(object: &[u8]) -> Option<u32> {
    Some(aya_obj::Object::parse(object).ok()?.maps.remove("ABI")?.max_entries())
}

/// The addresses by which the programs find a listener of this address.
pub(crate) fn listened_addresses(address: IpAddr, v6only: bool) -> Vec<Address> {
    match address {
        IpAddr::V4(address) => vec![v4_mapped(address.octets())],
        IpAddr::V6(address) if address.is_unspecified() && !v6only => vec![any_address(false), any_address(true)],
        // The kernel answers IPv4 on an IPv6 socket bound to a mapped address; our keys are of that form anyway.
        IpAddr::V6(address) => vec![v6(address.octets())],
    }
}
