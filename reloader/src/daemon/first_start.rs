//! How a service comes to serve when the daemon starts.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::{DaemonError, adopt, companion};
use crate::receipt::{Kind, Outcome, Receipt};
use crate::reload::replaced;
use crate::reload::run::{ReloadRequest, run as run_reload};
use crate::sockets::custody::Custody;
use crate::supervision::{Outage, Supervisor};

/// The service serves, or is tried again later.
pub(super) async fn begin_serving(supervisor: &mut Supervisor) -> Result<(), DaemonError> {
    let begun = begin_service(supervisor).await;
    if let Err(error) = &begun {
        log::error!("{}: {error}", supervisor.name);
        supervisor.warning = Some(format!("nothing serves: {error}"));
        // Beside one that runs and could not be adopted another must not be started.
        match error {
            DaemonError::CannotAdopt(_) => supervisor.adoption_blocked = Some(error.to_string()),
            // The next daemon must not find in the fd store what nobody could be started for.
            _ => {
                supervisor.note_failed_starts();
                supervisor.drop_custody();
            }
        }
    }
    supervisor.received.clear();
    replaced::clean_up(&supervisor.present_listeners());
    supervisor.publish();
    begun
}

/// Adopts what serves, or starts the first generation; the last-known-good one when the configuration does not start.
async fn begin_service(supervisor: &mut Supervisor) -> Result<(), DaemonError> {
    if supervisor.companion.is_some() {
        companion::begin(supervisor).await;
        return Ok(());
    }
    if let Some(receipt) = adopt::adopt(supervisor).await? {
        supervisor.store_receipt(&receipt);
        return Ok(());
    }
    supervisor.server.capabilities()?;
    let kind = custody_of_the_dead(supervisor);
    let mut reasons = Vec::new();
    for use_known_good in [false, true] {
        if use_known_good && supervisor.known_good.config().is_none() {
            break;
        }
        let ask = ReloadRequest { kind, asked: Instant::now(), coalesced: 0, use_known_good };
        let receipt = run_reload(supervisor, ask, &|_| {}).await;
        supervisor.store_receipt(&receipt);
        if receipt.result != Outcome::Failed {
            if use_known_good {
                supervisor.warning = Some(runs_known_good(&reasons.join("\n")));
            }
            return Ok(());
        }
        reasons.push(sentence_of(&receipt));
        if *supervisor.stopping.borrow() {
            break;
        }
    }
    Err(DaemonError::NothingServes(reasons.join("\n")))
}

/// Nothing runs any more, but the service manager has kept the listeners of what served: clients wait in their queues.
fn custody_of_the_dead(supervisor: &mut Supervisor) -> Kind {
    let mut custody = Custody::new(std::mem::take(&mut supervisor.received), HashMap::new());
    supervisor.limit_custody(&mut custody);
    if custody.is_empty() {
        return Kind::Start;
    }
    log::warn!("{}: nothing serves; {} listeners come from the fd store", supervisor.name, custody.kept().len());
    supervisor.custody = custody;
    supervisor.down = Some(Outage::begin(Instant::now(), Duration::MAX, None));
    Kind::Restart
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
