//! Runs `reloader hold --listen ADDR:PORT -- CMD` around the stop and start of servers that know nothing of it. Every
//! test needs root to create a network namespace.

mod activation;
mod addresses;
mod commands;
mod locations;
mod privileges;
mod servers;
mod signals;
