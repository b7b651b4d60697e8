//! Brings a service to serve when the daemon starts.

use std::collections::HashMap;

use super::{DaemonError, adopt, companion};
use crate::haproxy::version::VersionError;
use crate::receipt::{Kind, Outcome, Receipt};
use crate::reload::attempt::ReloadRequest;
use crate::reload::run::run as run_reload;
use crate::server::Capabilities;
use crate::sockets::custody::Custody;
use crate::supervision::{CustodyEnd, Notice, Supervisor, clean_up_path_links};

/// The service serves, or is tried again later.
pub(super) async fn begin_serving(supervisor: &mut Supervisor) -> Result<(), DaemonError> {
    // What serves already is adopted whatever its program file says about its version.
    let refreshed = supervisor.refresh_server().await;
    supervisor.prepare_holds().await;
    let begun = begin_service(supervisor, refreshed).await;
    if let Err(error) = &begun {
        log::error!("{}: {error}", supervisor.name());
        supervisor.warn(Notice::NothingServes, why_unserved(error));
        // While a server runs that could not be adopted, no other one may be started.
        match error {
            DaemonError::CannotAdopt(_) => supervisor.block_adoption(error.to_string()),
            // The next daemon must not find sockets in the fd store for which nothing could be started.
            _ => {
                supervisor.begin_outage_after_failed_starts();
                supervisor.drop_custody(CustodyEnd::NoStart);
            }
        }
    }
    supervisor.take_received();
    if begun.is_err() {
        // The daemon may end with this. A failure is in the log.
        let _ = supervisor.record_now().await;
    }
    // What no successor has a use for must not stay in the service manager's share.
    supervisor.hand_sockets_to_service_manager();
    clean_up_path_links(supervisor.present_listeners().into_iter().map(|owned| owned.listener.endpoint));
    supervisor.link_paths_of_adopted();
    supervisor.write_pid_file().await;
    supervisor.publish();
    begun
}

/// Adopts what serves, or starts the first generation; the last-known-good one when the configuration does not start.
async fn begin_service(
    supervisor: &mut Supervisor,
    refreshed: Result<Capabilities, VersionError>,
) -> Result<(), DaemonError> {
    if !supervisor.server().owns_lifecycle() {
        companion::begin(supervisor).await;
        return Ok(());
    }
    // An adopted service is reached by the path that a killed daemon's link gives back.
    clean_up_path_links(supervisor.endpoints());
    if let Some(receipt) = adopt::adopt(supervisor).await? {
        supervisor.store_receipt(&receipt).await;
        return Ok(());
    }
    refreshed?;
    let kind = custody_of_the_dead(supervisor);
    let mut reasons = Vec::new();
    for use_known_good in [false, true] {
        if use_known_good && supervisor.last_known_good().is_none() {
            break;
        }
        let request = ReloadRequest { use_known_good, ..ReloadRequest::now(kind) };
        let receipt = run_reload(supervisor, request, &|_| {}).await;
        supervisor.store_receipt(&receipt).await;
        if receipt.result != Outcome::Failed {
            if use_known_good {
                supervisor.warn(Notice::LastKnownGood, runs_known_good(&reasons.join("\n")));
            }
            return Ok(());
        }
        reasons.push(sentence_of(&receipt));
        if *supervisor.stopping().borrow() {
            break;
        }
    }
    Err(DaemonError::NothingServes(reasons.join("\n")))
}

/// Nothing runs any more, but the service manager has kept the listeners of what served: clients wait in their queues.
fn custody_of_the_dead(supervisor: &mut Supervisor) -> Kind {
    let mut custody = Custody::new(supervisor.take_received(), HashMap::new());
    supervisor.limit_custody(&mut custody);
    if custody.is_empty() {
        return Kind::Start;
    }
    log::warn!("{}: nothing serves; {} listeners come from the fd store", supervisor.name(), custody.kept().len());
    supervisor.begin_from_the_dead(custody);
    Kind::Restart
}

/// The warning about a service that the daemon could not bring to serve. Pure.
fn why_unserved(error: &DaemonError) -> String {
    match error {
        DaemonError::CannotAdopt(_) => {
            format!("a server that runs already was not adopted, and no other is started beside it: {error}")
        }
        _ => format!("nothing serves: {error}"),
    }
}

/// The warning for a configuration that could not be used.
pub(super) fn runs_known_good(why: &str) -> String {
    format!("HAProxy runs the last-known-good configuration, because the one on disk does not start: {why}")
}

/// Why a start failed, with HAProxy's own lines.
pub(super) fn sentence_of(receipt: &Receipt) -> String {
    let reason = receipt.reason.as_deref().unwrap_or("the start failed");
    let lines = receipt.server_log.iter().map(|line| format!("\n  {line}"));
    format!("{reason}{}", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_that_runs_is_not_said_to_be_down() {
        let blocked = why_unserved(&DaemonError::CannotAdopt("process 7 belongs to x.service".into()));
        assert!(blocked.starts_with("a server that runs already was not adopted"), "{blocked}");
        assert_eq!(why_unserved(&DaemonError::NothingServes("it failed".into())), "nothing serves: it failed");
    }
}
