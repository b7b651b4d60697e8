//! Tests reloader under a booted systemd: its own unit, and the takeover of an existing haproxy.service. Each scene boots once.

mod hooks;
mod interrupted;
mod rig;
mod scene;
mod sequence;
mod service;
mod several;
mod steps;
mod surroundings;
mod takeover;
mod unit_file;
mod without_reloader;
