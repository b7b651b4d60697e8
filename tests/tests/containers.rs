//! In a container: reloader as PID 1 of namespaces of its own, with what an engine gives it, under load from outside.

#[path = "containers/given.rs"]
mod given;
#[path = "containers/orphans.rs"]
mod orphans;
#[path = "containers/reloads.rs"]
mod reloads;
#[path = "containers/scene.rs"]
mod scene;
#[path = "containers/stops.rs"]
mod stops;
