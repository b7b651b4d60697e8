//! The eBPF programs, as `cargo xtask build-ebpf` built them from `reloader-ebpf`.

/// The object that holds them.
pub(crate) static OBJECT: &[u8] = aya::include_bytes_aligned!("programs/reloader.o");

/// The tc program that counts SYNs; `tc filter show` calls it so too.
pub(crate) const SYN_PROGRAM: &str = "reloader_syns";

/// The sk_reuseport program that loads only where the kernel migrates connections.
pub(crate) const MIGRATION_PROBE: &str = "reloader_can_migrate";
