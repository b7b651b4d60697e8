//! Defines the codes that tell programs why a reload failed or is unproven. The sentences beside the codes are for
//! people, and may change.

use serde::{Deserialize, Serialize};

/// The `reason-code` of a receipt, and the `why-code` of a listener. What to do about each code is in `docs/reference/receipts.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(test, derive(clap::ValueEnum))]
pub enum ReasonCode {
    /// The server, or its check, refuses the configuration.
    ConfigurationRefused,
    /// The configuration has no listener for traffic.
    NoTrafficListener,
    /// The new generation does not listen where the configuration of the service says.
    AddressesMissing,
    /// The reload would end something that the old generation runs, such as a program.
    ReloadLoses,
    /// `require = "proven"`, and the plan cannot prove a listener.
    PlanUnproven,
    /// `require = "proven"`, and a listener has no proof.
    ProofMissing,
    /// The new generation ended, or could not be started.
    StartFailed,
    /// The new generation, or a check of its configuration, was not done in time.
    StartTimedOut,
    /// Nothing served, and custody could be kept no longer.
    CustodyMax,
    /// The sockets of the new generation could not be inspected.
    InspectionFailed,
    /// Another server listens on one of the addresses.
    ForeignListener,
    /// The handover could not be recorded.
    RecordFailed,
    /// The serving generation ended before it was replaced.
    OldGenerationEnded,
    /// The serving generation did not make room.
    OldGenerationStays,
    /// Two generations cannot share a port, and the old one may not be replaced.
    OverlapImpossible,
    /// Two generations would write the same file at once.
    DataAtRisk,
    /// The daemon was asked to stop.
    DaemonStopping,
    /// Companion mode: no worker of HAProxy serves.
    WorkerAbsent,
    /// Companion mode: HAProxy's master has ended, or the process is not a master.
    MasterGone,
    /// Companion mode: HAProxy's master could not be asked.
    MasterUnreachable,
    /// Companion mode: the new worker failed.
    WorkerFailed,
    /// Companion mode: no new worker came in time.
    WorkerTimedOut,
    /// A listener was opened again instead of being passed, and nothing closed the gap.
    NotPassed,
    /// Connections or handshakes were left on the old socket.
    Undrained,
    /// The address of a listener does not lead to its socket.
    Unreachable,
    /// The daemon's own connection to the listener failed.
    ConnectFailed,
    /// Connections went another way than to the new socket.
    Diverted,
    /// A hold lapsed, was lifted, or could not deliver.
    HoldFailed,
    /// It was not seen whether anything was lost: the kernel does not show it, or no daemon ran.
    Unobservable,
    /// The old generation was not seen to close its listener.
    OldStillOpen,
    /// The port had no listener for some time.
    PortRefused,
    /// The server has bound a listener that its next generation cannot bind beside it.
    NextReloadFails,
    /// A retired generation ended before its connections did.
    ConnectionsCut,
    /// `reloader hold`: no new listener took the place of the old one.
    NoNewListener,
    /// The command of `reloader hold` failed.
    CommandFailed,
    /// A signal ended the hold.
    Interrupted,
    /// A fault of reloader itself.
    InternalError,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::ValueEnum;

    use super::ReasonCode;

    const SCHEMA: &str = include_str!("../../../docs/reference/receipt.schema.json");
    const REFERENCE: &str = include_str!("../../../docs/reference/receipts.md");

    fn names() -> Vec<String> {
        let name = |code: &ReasonCode| serde_json::to_value(code).unwrap().as_str().unwrap().to_owned();
        ReasonCode::value_variants().iter().map(name).collect()
    }

    #[test]
    fn the_schema_lists_each_code_once() {
        let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
        assert_eq!(schema["$defs"]["reason-code"]["enum"], serde_json::json!(names()));
        assert_eq!(names().into_iter().collect::<BTreeSet<_>>().len(), ReasonCode::value_variants().len());
    }

    #[test]
    fn the_reference_says_what_to_do_about_each_code() {
        for name in names() {
            let row = REFERENCE.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
            let cells = row.unwrap_or_else(|| panic!("no row for {name}")).split(" | ").count();
            assert_eq!(cells, 3, "{name}: what happened, and what to do");
        }
    }
}
