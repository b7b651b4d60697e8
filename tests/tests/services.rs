//! Servers that are not HAProxy, each by its `[service.NAME]`.

#[path = "services/scene.rs"]
mod scene;

#[path = "services/changes.rs"]
mod changes;
#[path = "services/failures.rs"]
mod failures;
#[path = "services/kills.rs"]
mod kills;
#[path = "services/readiness.rs"]
mod readiness;
#[path = "services/reloads.rs"]
mod reloads;
#[path = "services/several.rs"]
mod several;
