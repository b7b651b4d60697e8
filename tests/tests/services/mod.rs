//! Servers that are not HAProxy, each by its `[service.NAME]`.

mod scene;

mod changes;
mod failures;
mod kills;
mod readiness;
mod reloads;
mod several;
