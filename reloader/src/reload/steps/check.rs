//! Lets the server check its configuration before the steps that a failed check must prevent.

use std::time::Duration;

use crate::receipt::{Failure, ReasonCode};
use crate::reload::attempt::Attempt;

/// The serving generation ended, or while it `lives` closed its listeners, before anything was done. Pure.
pub(in crate::reload) fn ended_before(owns_lifecycle: bool, lives: bool) -> Failure {
    let what = if lives { "closed its listeners" } else { "ended" };
    let reason = match owns_lifecycle {
        true => format!("the serving generation {what} before the new one was started; another is started now"),
        false => "the serving worker ended before its master was asked: nothing was done".into(),
    };
    Failure::new(ReasonCode::OldGenerationEnded, reason)
}

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
            _ = ended => Err(ended_before(self.supervisor.server().owns_lifecycle(), false)),
            _ = stopping.wait_for(|stopping| *stopping) => Err(Failure::daemon_stopping()),
            () = tokio::time::sleep(timeout) => Err(Failure::new(ReasonCode::StartTimedOut, format!(
                "the check of the configuration was not done within {}; raise start-timeout if it needs longer",
                humantime::format_duration(timeout)
            ))),
            () = ticks => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_is_said_to_be_started_only_where_the_daemon_starts_it() {
        assert!(ended_before(true, false).reason.ends_with("another is started now"));
        assert!(!ended_before(false, false).reason.contains("started now"));
        assert!(ended_before(true, true).reason.starts_with("the serving generation closed its listeners before"));
    }
}
