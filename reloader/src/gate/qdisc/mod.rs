//! The gate of kernels without bpf(2): u32 filters and the plug qdisc, Yelp's technique.

/// Why the qdisc gate cannot hold.
#[derive(Debug, thiserror::Error)]
pub enum QdiscError {}
