//! Holds under faults: whoever dies, SYNs are let go, and nothing is left. Every test needs root, for network namespaces of its
//! own.

mod concurrent;
mod deaths;
mod doubts;
mod flood;
mod release;
mod scene;
