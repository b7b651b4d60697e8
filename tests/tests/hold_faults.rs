//! Holds under faults: whoever dies, SYNs are let go, and nothing is left. Every test needs root, for network namespaces of its
//! own.

#[path = "hold_faults/deaths.rs"]
mod deaths;
#[path = "hold_faults/doubts.rs"]
mod doubts;
#[path = "hold_faults/flood.rs"]
mod flood;
#[path = "hold_faults/release.rs"]
mod release;
#[path = "hold_faults/scene.rs"]
mod scene;
#[path = "hold_faults/together.rs"]
mod together;
