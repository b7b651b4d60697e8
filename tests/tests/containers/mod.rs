//! Runs reloader as PID 1 of a container, with the privileges that an engine gives it, under load from outside.

mod orphans;
mod privileges;
mod reloads;
mod scene;
mod stops;
