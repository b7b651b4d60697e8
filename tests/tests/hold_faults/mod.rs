//! Kills, stops and floods holds: SYNs are always released, and nothing is left. Every test needs root to create
//! network namespaces.

mod concurrent;
mod deaths;
mod doubts;
mod flood;
mod release;
mod scene;
