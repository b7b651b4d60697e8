//! Shared by the tests on a booted Debian machine: addresses, HAProxy's configuration, and receipts.

use std::time::Duration;

use reloader_tests::config::Config;
use reloader_tests::rig::Answer;
use serde_json::Value;

pub(crate) const WEB: &str = "127.0.0.1:8000";
pub(crate) const IDLE: &str = "127.0.0.1:8001";
pub(crate) const BACKEND: &str = "127.0.0.1:9000";
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// How many idle connections a scene opens.
pub(crate) const CONNECTIONS: usize = 100;
/// The command for [`receipts`].
pub(crate) const HISTORY: [&str; 4] = ["history", "--json", "-n", "1000"];

/// HAProxy as in Debian's own configuration: another user, a chroot, a stats socket without `expose-fd`.
pub(crate) fn config() -> Config {
    let global = ["user haproxy", "group haproxy", "chroot /var/lib/haproxy", "log /dev/log local0"];
    let config = global.into_iter().fold(Config::new(), Config::global);
    let config = config.global("stats socket /run/haproxy/admin.sock mode 660 level admin");
    config.frontend("web", &[WEB]).tcp_proxy("idle", &[IDLE], BACKEND)
}

/// The receipts in the answer of [`HISTORY`], newest first.
pub(crate) fn receipts(answer: Answer) -> Vec<Value> {
    match answer.json {
        Value::Array(receipts) => receipts,
        receipt => vec![receipt],
    }
}
