//! Prints the proofs of a test for the report of the run: one line for each rung and kind of server in a proven
//! receipt.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use serde_json::Value;

/// Precedes each proof in a test's output.
pub const PROOF: &str = "proof: ";

/// The init system that started the daemon.
#[derive(Debug, Clone, Copy)]
pub enum Init {
    /// A test started it, as a supervisor such as runit does.
    None,
    /// A booted systemd started it.
    Systemd,
    /// A booted sysvinit started it.
    SysVinit,
    /// The daemon is PID 1 of a container.
    Container,
}

impl Init {
    fn word(self) -> &'static str {
        match self {
            Init::None => "none",
            Init::Systemd => "systemd",
            Init::SysVinit => "sysvinit",
            Init::Container => "container",
        }
    }
}

/// Prints what the receipts prove. The directory `state` has `receipts.jsonl`; `config` is the file of reloader's configuration.
///
/// Gives the receipts. They are checked against their schema when no process of the test runs any more: a failure in the
/// middle of the clean-up would leave processes behind.
#[must_use]
pub fn print(state: &Path, config: &Path, init: Init) -> Value {
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let (receipts, config) = (read(&state.join("receipts.jsonl")), read(config));
    let uname = rustix::system::uname();
    // Two numbers are enough (6.12): another build of the same kernel proves the same.
    let kernel = uname.release().to_string_lossy().split('.').take(2).collect::<Vec<_>>().join(".");
    for (rung, kind) in proven(&receipts, &config) {
        // Not print!: libtest hides its output when a test passes.
        let _ = writeln!(std::io::stderr(), "{PROOF}{rung} {kind} {kernel} {}", init.word());
    }
    Value::Array(parsed(&receipts).collect())
}

/// Pairs of a rung and a kind of server. A listener that was only added or removed was not reloaded.
fn proven(receipts: &str, config: &str) -> BTreeSet<(String, String)> {
    let config: toml::Table = config.parse().unwrap_or_default();
    let proven = parsed(receipts).filter(|receipt| receipt["result"] == "proven");
    let rungs = proven.flat_map(|receipt| {
        let kind = kind(receipt["service"].as_str(), &config);
        let listeners = receipt["listeners"].as_array().cloned().unwrap_or_default();
        listeners.into_iter().map(move |listener| {
            let word = |key: &str| listener[key].as_str().unwrap_or_default().to_owned();
            (word("rung"), format!("{kind} {}", word("family")))
        })
    });
    rungs.filter(|(rung, _)| !["added", "removed", "unproven", ""].contains(&rung.as_str())).collect()
}

/// The lines of a journal that are JSON.
fn parsed(receipts: &str) -> impl Iterator<Item = Value> {
    receipts.lines().filter_map(|line| serde_json::from_str(line).ok())
}

/// The kind of server: `haproxy`, `companion`, or how a service gets its sockets.
fn kind(service: Option<&str>, config: &toml::Table) -> String {
    let word = |table: &str, key: &str| config.get(table)?.get(key)?.as_str().map(str::to_owned);
    let sockets = |name: &str| config.get("service")?.get(name)?.get("sockets")?.as_str().map(str::to_owned);
    match service.filter(|name| *name != "haproxy") {
        Some(name) => sockets(name).unwrap_or_else(|| "service".into()),
        None => word("haproxy", "mode").unwrap_or_else(|| "haproxy".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_proven_rungs_are_printed_each_once() {
        let line = |result: &str, service: &str, rung: &str| {
            format!(
                "{{\"result\":\"{result}\",\"service\":\"{service}\",\"listeners\":[{{\"rung\":\"{rung}\",\"family\":\"inet\"}}]}}\n"
            )
        };
        let receipts = [
            line("proven", "haproxy", "passed"),
            line("proven", "haproxy", "passed"),
            line("unproven", "haproxy", "steered"),
            line("proven", "haproxy", "added"),
            line("proven", "web", "held-ebpf"),
        ];
        let config = "[haproxy]\nmode = \"companion\"\n[service.web]\nsockets = \"replace\"\n";
        let expected = [("held-ebpf", "replace inet"), ("passed", "companion inet")];
        let found = proven(&(receipts.concat() + "no JSON\n"), config);
        assert_eq!(found, expected.map(|(rung, kind)| (rung.to_owned(), kind.to_owned())).into());
        assert_eq!(kind(None, &toml::Table::new()), "haproxy");
    }
}
