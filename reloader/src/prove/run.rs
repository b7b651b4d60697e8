//! The run: a load on its own thread, and reloads beside it.

use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc::UnboundedReceiver;

use super::findings::{Attempt, Findings, Reloaded, Settings, Way};
use super::reload::Reload;
use super::tally::{Tally, Windows};
use crate::kernel::kernel_release;
use crate::load::{Load, LoadError, MAX_START_DELAY, RunningLoad};

/// Load without a reload, before the first and after the last: the one shows that all is well without, the other what the old
/// process still does as it ends.
const QUIET: Duration = Duration::from_secs(1);
/// Between two looks at the load.
const LOOK: Duration = Duration::from_millis(100);

/// Why there are no findings.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// The load.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A second signal came before the first had its effect.
    #[error("ended at once by signal {0}; what reloads the service may still run")]
    Abandoned(i32),
}

/// The number of a signal that ends the run early.
pub type Interrupt = i32;

/// How far it has got.
#[derive(Debug, Clone, Copy)]
pub struct Stage {
    /// Reloads that are over.
    pub reloads: u32,
    /// Whether one is under way.
    pub is_reloading: bool,
    /// Connections that have been started.
    pub started: u64,
    /// Those that have failed.
    pub failed: u64,
}

struct Course<'a> {
    running: RunningLoad<Tally>,
    windows: Windows,
    began: Instant,
    reloads: Vec<(Instant, Duration, Attempt)>,
    interrupts: &'a mut UnboundedReceiver<Interrupt>,
    progress: &'a dyn Fn(Stage),
}

/// Why the next thing is not done.
enum Stop {
    Interrupted(Interrupt),
    /// The generator is hopelessly late, or gone: nothing that comes can be believed.
    Useless,
}

/// Puts the service under load, reloads it, and tells what became of it.
///
/// # Errors
/// Where the load cannot be started, or was abandoned by a second signal.
pub async fn run(
    settings: Settings,
    address: String,
    load: Load,
    reload: &impl Reload,
    interrupts: &mut UnboundedReceiver<Interrupt>,
    progress: &dyn Fn(Stage),
) -> Result<Findings, ProveError> {
    let at = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    let windows = Windows::default();
    let running = load.rate(settings.rate).start(Tally::new(windows.clone()))?;
    let mut course = Course { running, windows, began: Instant::now(), reloads: Vec::new(), interrupts, progress };
    let stop = course.reload_all(&settings, reload).await?;
    let cut_short = course.close(stop).await?;
    let ended = course.running.wait()?;
    let in_load = |(at, took, attempt): (Instant, Duration, Attempt)| Reloaded {
        at: at.saturating_duration_since(ended.begin),
        took,
        attempt,
    };
    Ok(Findings {
        settings,
        address,
        at,
        kernel: kernel_release(),
        lasted: ended.wall,
        tally: ended.sink,
        connections: ended.connections,
        closed_between: ended.closed_between,
        reloads: course.reloads.into_iter().map(in_load).collect(),
        cut_short,
        latest_start: ended.max_start_delay,
        unfinished: ended.unfinished,
    })
}

impl Course<'_> {
    async fn reload_all(&mut self, settings: &Settings, reload: &impl Reload) -> Result<Option<Stop>, ProveError> {
        let mut due = self.began + QUIET;
        for _ in 0..settings.reloads {
            // One that takes longer than the interval is followed by the next at once, but by no burst of those that it made wait.
            if let Some(stop) = self.until(due).await {
                return Ok(Some(stop));
            }
            due = Instant::now() + settings.interval;
            let stop = self.reload(reload).await?;
            let failed = self.reloads.last().is_some_and(|(_, _, attempt)| attempt.way == Way::Failed);
            if stop.is_some() {
                return Ok(stop);
            }
            if failed {
                break;
            }
        }
        Ok(self.pause(QUIET).await)
    }

    async fn reload(&mut self, reload: &impl Reload) -> Result<Option<Stop>, ProveError> {
        let began = self.windows.begin();
        let mut stop = None;
        let outcome = reload.reload();
        tokio::pin!(outcome);
        let attempt = loop {
            self.show(true);
            tokio::select! {
                attempt = &mut outcome => break attempt,
                Some(signal) = self.interrupts.recv() => match stop {
                    // A reload is not left in its middle for one signal.
                    None => stop = Some(Stop::Interrupted(signal)),
                    Some(_) => return Err(ProveError::Abandoned(signal)),
                },
                () = tokio::time::sleep(LOOK) => {}
            }
        };
        self.windows.end();
        self.reloads.push((began, began.elapsed(), attempt));
        Ok(stop)
    }

    /// Waits for what is open, which may take its whole timeout. The answer is the signal that cut the run short.
    async fn close(&mut self, stop: Option<Stop>) -> Result<Option<Interrupt>, ProveError> {
        let mut cut_short = match stop {
            Some(Stop::Interrupted(signal)) => Some(signal),
            Some(Stop::Useless) | None => None,
        };
        match stop {
            Some(Stop::Useless) => self.running.abandon(),
            Some(Stop::Interrupted(_)) | None => self.running.stop_starting(),
        }
        while !self.running.is_over() {
            self.show(false);
            tokio::select! {
                Some(signal) = self.interrupts.recv() => match cut_short {
                    // What was found stays found.
                    None => {
                        cut_short = Some(signal);
                        self.running.abandon();
                    }
                    Some(_) => return Err(ProveError::Abandoned(signal)),
                },
                () = tokio::time::sleep(LOOK) => {}
            }
        }
        Ok(cut_short)
    }

    async fn pause(&mut self, length: Duration) -> Option<Stop> {
        self.until(Instant::now() + length).await
    }

    async fn until(&mut self, end: Instant) -> Option<Stop> {
        loop {
            self.show(false);
            if self.running.max_start_delay() > MAX_START_DELAY || self.running.is_over() {
                return Some(Stop::Useless);
            }
            let now = Instant::now();
            if now >= end {
                return None;
            }
            tokio::select! {
                Some(signal) = self.interrupts.recv() => return Some(Stop::Interrupted(signal)),
                () = tokio::time::sleep(LOOK.min(end - now)) => {}
            }
        }
    }

    fn show(&self, is_reloading: bool) {
        (self.progress)(Stage {
            reloads: self.reloads.len() as u32,
            is_reloading,
            started: self.running.started(),
            failed: self.running.failed(),
        });
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use tokio::sync::mpsc::unbounded_channel;

    use super::*;
    use crate::load::Target;
    use crate::prove::Protocol;

    fn load(listener: &TcpListener) -> Load {
        Load::new(vec![Target::Tcp(listener.local_addr().unwrap())]).timeout(Duration::from_secs(5))
    }

    /// How the closing wait comes out over connections that hang, after `signals`; and how many were given up.
    async fn close(stop: Option<Stop>, signals: &[Interrupt]) -> (Result<Option<Interrupt>, Interrupt>, u64) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let windows = Windows::default();
        let running = load(&listener).connections(3).start(Tally::new(windows.clone())).unwrap();
        let (sender, mut interrupts) = unbounded_channel();
        let began = Instant::now();
        while running.started() < 3 {
            assert!(began.elapsed() < Duration::from_secs(60), "no load");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        signals.iter().for_each(|signal| sender.send(*signal).unwrap());
        let (reloads, progress) = (Vec::new(), |_| {});
        let mut course = Course { running, windows, began, reloads, interrupts: &mut interrupts, progress: &progress };
        match course.close(stop).await {
            Ok(cut_short) => (Ok(cut_short), course.running.wait().unwrap().unfinished),
            Err(ProveError::Abandoned(signal)) => (Err(signal), 0),
            Err(error) => panic!("{error}"),
        }
    }

    #[tokio::test]
    async fn the_first_signal_keeps_what_was_found_and_the_second_does_not_wait() {
        assert_eq!(close(None, &[2]).await, (Ok(Some(2)), 3));
        assert_eq!(close(Some(Stop::Interrupted(2)), &[15]).await, (Err(15), 0));
        assert_eq!(close(None, &[]).await, (Ok(None), 0), "they timed out, and were recorded");
    }

    #[tokio::test]
    async fn of_a_generator_that_fell_behind_nothing_is_waited_for() {
        assert_eq!(close(Some(Stop::Useless), &[]).await, (Ok(None), 3));
    }

    /// The first takes longer than the others may be apart.
    struct SlowAtFirst(std::cell::Cell<bool>);

    impl Reload for SlowAtFirst {
        async fn reload(&self) -> Attempt {
            if !self.0.replace(true) {
                tokio::time::sleep(INTERVAL * 4).await;
            }
            Attempt { way: Way::Done, said: None, output: Vec::new() }
        }
    }

    const INTERVAL: Duration = Duration::from_millis(200);

    async fn reloaded() -> Vec<Reloaded> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let load = load(&listener);
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let _ = stream.read(&mut [0; 100]).and_then(|_| stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n"));
            }
        });
        let settings = Settings {
            target: String::new(),
            protocol: Protocol::default(),
            rate: 5,
            reloads: 3,
            interval: INTERVAL,
            command: None,
            command_line: String::new(),
            doubt: None,
        };
        let (_sender, mut interrupts) = unbounded_channel();
        let reload = SlowAtFirst(false.into());
        run(settings, String::new(), load, &reload, &mut interrupts, &|_| {}).await.unwrap().reloads
    }

    #[tokio::test]
    async fn a_slow_reload_is_not_followed_by_a_burst() {
        for _ in 0..30 {
            // On a busy machine the generator may fall behind, and end it.
            if let [_, second, third] = &reloaded().await[..] {
                assert!(third.at - second.at >= INTERVAL, "{:?} after the second", third.at - second.at);
                return;
            }
        }
        panic!("the generator never kept its schedule");
    }
}
