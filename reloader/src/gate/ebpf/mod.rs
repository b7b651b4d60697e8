//! The gate of kernels from 5.8 on: a tc program parks SYNs in a BPF ring buffer.

/// Why the eBPF gate cannot hold.
#[derive(Debug, thiserror::Error)]
pub enum EbpfError {}
