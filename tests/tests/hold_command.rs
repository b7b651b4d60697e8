//! `reloader hold --listen ADDR:PORT -- CMD`, around the stop and start of servers that know nothing of it. Every test needs
//! root, for a network namespace of its own.

#[path = "hold_command/activation.rs"]
mod activation;
#[path = "hold_command/addresses.rs"]
mod addresses;
#[path = "hold_command/commands.rs"]
mod commands;
#[path = "hold_command/places.rs"]
mod places;
#[path = "hold_command/privileges.rs"]
mod privileges;
#[path = "hold_command/servers.rs"]
mod servers;
#[path = "hold_command/signals.rs"]
mod signals;
