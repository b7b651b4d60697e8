//! Lets the server check its configuration before the steps that a failed check must prevent.

use std::time::Duration;

use crate::receipt::{Failure, ReasonCode};
use crate::reload::attempt::Attempt;

/// The serving generation ended before anything was done.
pub(in crate::reload) const ENDED: &str =
    "the serving generation ended before the new one was started; another is started now";

/// How often the daemon does what is due during the check.
const TICK_INTERVAL: Duration = Duration::from_secs(1);

impl Attempt<'_> {
    /// Runs the check. The start reads the configuration once more, but an error in it must show while the old generation still serves.
    pub(in crate::reload) async fn check(&mut self) -> Result<(), Failure> {
        let Some(check) = self.supervisor.check() else { return Ok(()) };
        let timeout = self.supervisor.config().reload.start_timeout;
        let mut stopping = self.supervisor.stopping();
        let serving = self.supervisor.serving().map(|serving| serving.process.clone());
        let ended = async {
            match &serving {
                Some(process) => process.ended().await,
                None => std::future::pending().await,
            }
        };
        let ticks = async {
            let mut interval = tokio::time::interval(TICK_INTERVAL);
            loop {
                interval.tick().await;
                self.supervisor.tick();
            }
        };
        tokio::select! {
            checked = check.run() => checked.map_err(|server_log| {
                let reason = format!("{} refuses the configuration", check.who);
                Failure { server_log, ..Failure::new(ReasonCode::ConfigurationRefused, reason) }
            }),
            _ = ended => Err(Failure::new(ReasonCode::OldGenerationEnded, ENDED)),
            _ = stopping.wait_for(|stopping| *stopping) => Err(Failure::daemon_stopping()),
            () = tokio::time::sleep(timeout) => Err(Failure::new(ReasonCode::StartTimedOut, format!(
                "the check of the configuration was not done within {}; raise start-timeout if it needs longer",
                humantime::format_duration(timeout)
            ))),
            () = ticks => Ok(()),
        }
    }
}
