//! Ends and starts the daemon: HAProxy serves on, and the next daemon takes over what it finds.

use std::time::Duration;

mod configuration;
mod kills;
mod starts;
mod stops;
mod watchdog;

const WEB: &str = "127.0.0.1:8080";
const IDLE: &str = "127.0.0.1:8081";

const LIMIT: Duration = Duration::from_secs(20);
