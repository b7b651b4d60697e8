//! Tries beside the loop whether HAProxy would start from the copies, so that the answer is known before they are needed.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;

use crate::server::Check;

/// How long a verdict counts. What the copies do not hold may break meanwhile: a Lua module, HAProxy itself.
const TRIAL_INTERVAL: Duration = Duration::from_secs(3600);

/// A trial that is under way, and when it began.
#[derive(Debug, Default)]
pub(super) struct Trial {
    running: Option<Running>,
    began: Option<Instant>,
}

#[derive(Debug)]
struct Running {
    verdict: Arc<Mutex<Option<Verdict>>>,
    task: AbortHandle,
}

/// What a trial has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// HAProxy accepts the copies.
    Starts,
    /// HAProxy refuses them, with this line.
    Refused(String),
    /// It is not known.
    TimedOut(Duration),
}

impl Trial {
    /// Begins a trial. An earlier one is ended.
    pub(super) fn begin(&mut self, check: Check, timeout: Duration) {
        self.interrupt();
        let verdict = Arc::<Mutex<Option<Verdict>>>::default();
        let place = verdict.clone();
        let task = tokio::spawn(async move {
            let found = match tokio::time::timeout(timeout, check.run_in_background()).await {
                Ok(Ok(())) => Verdict::Starts,
                Ok(Err(lines)) => Verdict::Refused(reason(&lines)),
                Err(_) => Verdict::TimedOut(timeout),
            };
            *place.lock().expect("no panic under this lock") = Some(found);
        });
        self.running = Some(Running { verdict, task: task.abort_handle() });
        self.began = Some(Instant::now());
    }

    /// Notes that there is nothing to try.
    pub(super) fn skip(&mut self) {
        self.began = Some(Instant::now());
    }

    /// Ends the trial that is under way. True if there was one.
    pub(super) fn interrupt(&mut self) -> bool {
        let running = self.running.take();
        running.iter().for_each(|running| running.task.abort());
        running.is_some()
    }

    pub(super) fn is_due(&self) -> bool {
        self.began.is_none_or(|began| began.elapsed() >= TRIAL_INTERVAL)
    }

    pub(super) fn take_verdict(&mut self) -> Option<Verdict> {
        let verdict = self.running.as_ref()?.verdict.lock().expect("no panic under this lock").take()?;
        self.running = None;
        Some(verdict)
    }
}

/// The line in which HAProxy says why, without the number of the process, which is another one each time.
fn reason(lines: &[String]) -> String {
    let Some(line) = lines.iter().find(|line| line.starts_with("[ALERT]")).or(lines.first()) else {
        return String::new();
    };
    let numbered = line.split_once(") : ").filter(|(before, _)| before.starts_with('['));
    numbered.map_or(line.as_str(), |(_, message)| message).to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn check(words: &[&str]) -> Check {
        let words = words.iter().map(Into::into).collect();
        Check { words, who: "x".into(), environment: None, added: BTreeMap::new() }
    }

    async fn verdict(trial: &mut Trial) -> Verdict {
        loop {
            if let Some(verdict) = trial.take_verdict() {
                return verdict;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn trial_has_a_limit_and_one_verdict() {
        let mut trial = Trial::default();
        assert!(trial.is_due());
        let limit = Duration::from_millis(20);
        trial.begin(check(&["/bin/sleep", "1000"]), limit);
        assert!(!trial.is_due());
        assert_eq!(verdict(&mut trial).await, Verdict::TimedOut(limit));
        assert_eq!(trial.take_verdict(), None);
        trial.begin(check(&["/bin/true"]), Duration::from_secs(60));
        assert_eq!(verdict(&mut trial).await, Verdict::Starts);
        trial.begin(check(&["/bin/sh", "-c", "echo '[ALERT] (1) : no' >&2; exit 1"]), Duration::from_secs(60));
        assert_eq!(verdict(&mut trial).await, Verdict::Refused("no".into()));
    }

    #[tokio::test]
    async fn interrupted_trial_has_no_verdict() {
        let mut trial = Trial::default();
        assert!(!trial.interrupt());
        trial.begin(check(&["/bin/true"]), Duration::from_secs(60));
        assert!(trial.interrupt() && !trial.interrupt());
        assert_eq!(trial.take_verdict(), None);
    }

    #[test]
    fn reason_is_the_first_alert_without_the_process() {
        let lines = ["[NOTICE]   (7) : haproxy version is 2.6.12", "[ALERT]    (7) : config : [a.cfg:3] : no (x) : y"];
        assert_eq!(reason(&lines.map(str::to_owned)), "config : [a.cfg:3] : no (x) : y");
        assert_eq!(reason(&["cannot run haproxy: not found".into()]), "cannot run haproxy: not found");
    }
}
