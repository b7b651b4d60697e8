//! Under a really booted systemd: reloader's own unit, and an existing haproxy.service that is handed over. Each scene boots once.

#[path = "systemd/rig.rs"]
mod rig;
#[path = "systemd/scene.rs"]
mod scene;
#[path = "systemd/service.rs"]
mod service;
#[path = "systemd/steps.rs"]
mod steps;
#[path = "systemd/takeover.rs"]
mod takeover;
#[path = "systemd/unit_file.rs"]
mod unit_file;
