//! `reloader hold --listen ADDR:PORT -- CMD`, around the stop and start of servers that know nothing of it. Every test needs
//! root, for a network namespace of its own.

#[path = "hold_command/rig.rs"]
mod rig;
#[path = "hold_command/servers.rs"]
mod servers;
