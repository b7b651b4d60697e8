use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpListener;

use tokio::sync::mpsc::unbounded_channel;

use super::*;
use crate::load::{Exchange, SessionContent, Target};
use crate::prove::protocol::Protocol;

const SIGINT: SignalNumber = 2;
const SIGTERM: SignalNumber = 15;
const INTERVAL: Duration = Duration::from_millis(200);

fn load(listener: &TcpListener) -> Load {
    Load::new(vec![Target::Tcp(listener.local_addr().unwrap())]).timeout(Duration::from_secs(5))
}

/// Ends a run over three connections that hang, with `signals` sent before. Returns what [`Run::finish_load`] returns, and
/// the number of abandoned connections.
async fn finish(
    early_end: Option<EarlyEnd>,
    signals: &[SignalNumber],
) -> (Result<Option<SignalNumber>, SignalNumber>, u64) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let windows = ReloadWindows::default();
    let running = load(&listener).connections(3).start(Tally::new(windows.clone())).unwrap();
    let (sender, mut receiver) = unbounded_channel();
    let began = Instant::now();
    while running.started() < 3 {
        assert!(began.elapsed() < Duration::from_secs(60), "the load does not start");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    signals.iter().for_each(|signal| sender.send(*signal).unwrap());
    let show = |_| {};
    let mut run = Run { load: running, windows, began, reloads: Vec::new(), signals: &mut receiver, show: &show };
    match run.finish_load(early_end).await {
        Ok(cut_short) => (Ok(cut_short), run.load.wait().unwrap().unfinished),
        Err(ProveError::Abandoned(signal)) => (Err(signal), 0),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn first_signal_keeps_the_findings_and_second_does_not_wait() {
    assert_eq!(finish(None, &[SIGINT]).await, (Ok(Some(SIGINT)), 3));
    assert_eq!(finish(Some(EarlyEnd::Signal(SIGINT)), &[SIGTERM]).await, (Err(SIGTERM), 0));
    assert_eq!(finish(None, &[]).await, (Ok(None), 0), "they timed out, and were recorded");
}

#[tokio::test]
async fn connections_of_a_late_generator_are_not_waited_for() {
    assert_eq!(finish(Some(EarlyEnd::LoadUseless), &[]).await, (Ok(None), 3));
}

/// Ends long sessions that the server never closes, with `signals` sent before.
async fn end_sessions(
    cut_short: Option<SignalNumber>,
    signals: &[SignalNumber],
) -> Result<Option<SignalNumber>, SignalNumber> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let windows = ReloadWindows::default();
    let running = load(&listener).connections(1).start(Tally::new(windows.clone())).unwrap();
    let long = load(&listener).timeout(INTERVAL).exchange(Exchange::Session(SessionContent::Nothing));
    let sessions = long.into_sessions(1).unwrap().start().unwrap();
    let (sender, mut receiver) = unbounded_channel();
    signals.iter().for_each(|signal| sender.send(*signal).unwrap());
    let (began, show) = (Instant::now(), |_| {});
    let mut run = Run { load: running, windows, began, reloads: Vec::new(), signals: &mut receiver, show: &show };
    match run.end_sessions(sessions, cut_short).await {
        Ok((ends, cut_short)) => {
            assert_eq!(ends.len(), 1);
            Ok(cut_short)
        }
        Err(ProveError::Abandoned(signal)) => Err(signal),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn signal_while_the_sessions_end_is_kept() {
    assert_eq!(end_sessions(None, &[SIGINT]).await, Ok(Some(SIGINT)));
    assert_eq!(end_sessions(None, &[]).await, Ok(None));
    assert_eq!(end_sessions(Some(SIGINT), &[SIGTERM]).await, Err(SIGTERM));
}

/// Its receipts never come.
struct NoReceipts;

impl ReloadMethod for NoReceipts {
    async fn reload(&self) -> ReloadReport {
        ReloadReport::plain(ReloadResult::Done)
    }

    async fn receipts_cut(&self) -> ReceiptsCut {
        std::future::pending().await
    }
}

#[tokio::test]
async fn signal_ends_the_wait_for_receipts() {
    let (sender, mut signals) = unbounded_channel();
    sender.send(SIGINT).unwrap();
    let asked = ask_receipts(&NoReceipts, &mut signals, None).await.unwrap();
    assert_eq!(asked, (ReceiptsCut::Unknown, Some(SIGINT)));
    sender.send(SIGTERM).unwrap();
    let asked = ask_receipts(&NoReceipts, &mut signals, Some(SIGINT)).await;
    assert!(matches!(asked, Err(ProveError::Abandoned(SIGTERM))), "{asked:?}");
}

/// The first reload takes longer than the interval.
struct SlowAtFirst {
    is_first: Cell<bool>,
}

impl ReloadMethod for SlowAtFirst {
    async fn reload(&self) -> ReloadReport {
        if self.is_first.replace(false) {
            tokio::time::sleep(INTERVAL * 4).await;
        }
        ReloadReport::plain(ReloadResult::Done)
    }
}

async fn reload_three_times() -> Vec<TimedReload> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let load = load(&listener);
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.read(&mut [0; 100]).and_then(|_| stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n"));
        }
    });
    let settings = ProofSettings {
        target: String::new(),
        protocol: Protocol::default(),
        rate: 5,
        reloads: 3,
        interval: INTERVAL,
        sessions: None,
        command: None,
        command_line: String::new(),
        doubt: None,
    };
    let (_sender, mut signals) = unbounded_channel();
    let method = SlowAtFirst { is_first: true.into() };
    let proof = Proof { settings, address: String::new(), load, sessions: None };
    run(proof, &method, &mut signals, &|_| {}).await.unwrap().reloads
}

#[tokio::test]
async fn slow_reload_is_not_followed_by_a_burst() {
    for _ in 0..30 {
        // On a busy machine the generator may fall behind, which ends the run.
        if let [_, second, third] = &reload_three_times().await[..] {
            assert!(third.begin - second.begin >= INTERVAL, "{:?} after the second", third.begin - second.begin);
            return;
        }
    }
    panic!("the generator never kept its schedule");
}
