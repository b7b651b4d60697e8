//! In a container: reloader as PID 1 of namespaces of its own, with what an engine gives it, under load from outside.

mod orphans;
mod privileges;
mod reloads;
mod scene;
mod stops;
