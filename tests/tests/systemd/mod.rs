//! Under a really booted systemd: reloader's own unit, and an existing haproxy.service that is handed over. Each scene boots once.

mod rig;
mod scene;
mod service;
mod steps;
mod takeover;
mod unit_file;
mod without_reloader;
