//! `reloader hold --listen ADDR:PORT -- CMD`, around the stop and start of servers that know nothing of it. Every test needs
//! root, for a network namespace of its own.

mod activation;
mod addresses;
mod commands;
mod locations;
mod privileges;
mod servers;
mod signals;
