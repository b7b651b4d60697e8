//! `reloader prove --target ADDR:PORT`

mod bar;
mod by_daemon;
mod report_file;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::{Context, Exit, Failure, client, exit, output};
use crate::config;
use crate::load::{Load, LoadError, Target};
use crate::prove::{
    Findings, Interrupt, Place, Protocol, ProveError, Settings, Shell, TrialError, Verdict, Way, html, json,
    json_without_figures, run as prove, text, trial, verdict,
};
use crate::sys::{self, Inheritance};
use bar::Bar;
use by_daemon::ByDaemon;

/// Arguments of `reloader prove`.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::PROVE)]
pub(super) struct Arguments {
    /// What clients connect to: an address or a name with a port, or unix@/PATH.
    #[arg(long, value_name = "ADDR:PORT")]
    target: String,
    /// New connections per second; with --keep-alive requests.
    #[arg(long, value_name = "N", default_value = "1000", value_parser = rate)]
    rate: u32,
    /// How often it is reloaded.
    #[arg(long, value_name = "N", default_value = "10", value_parser = reloads)]
    reloads: u32,
    /// From the begin of one reload to the begin of the next.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = config::parse_duration)]
    interval: Duration,
    /// What reloads it, for `sh -c`; without it the daemon is asked, as `reloader reload` does.
    #[arg(long, value_name = "CMD")]
    reload_command: Option<String>,
    /// Which of the daemon's services is reloaded [default: haproxy, or the only one].
    #[arg(long, value_name = "NAME", conflicts_with = "reload_command")]
    service: Option<String>,
    /// Send an HTTP request for / or this path on each connection; a reply of 2xx or 3xx is a success.
    #[arg(long, value_name = "/PATH", num_args = 0..=1, require_equals = true, default_missing_value = "/")]
    http: Option<String>,
    /// Speak TLS, with --http within it. The certificate is not verified: it is proven that there is service, not whose.
    #[arg(long)]
    tls: bool,
    /// Keep 50 connections, or so many, and send the requests on them; one that is closed or reset under a request is lost.
    #[arg(
        long,
        value_name = "CONNECTIONS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "50",
        requires = "http",
        value_parser = connections
    )]
    keep_alive: Option<usize>,
    /// How long a connection or request may take.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = timeout)]
    timeout: Duration,
    /// Write a report: one HTML file that needs nothing else.
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    #[command(flatten)]
    format: output::Format,
}

fn at_least_one<T: std::str::FromStr + PartialOrd + From<u8>>(text: &str, why: &str) -> Result<T, String> {
    match text.parse::<T>() {
        Ok(number) if number >= T::from(1) => Ok(number),
        Ok(_) => Err(why.into()),
        Err(_) => Err(format!("`{text}` is no number from 1 up that can be counted to")),
    }
}

fn rate(text: &str) -> Result<u32, String> {
    at_least_one(text, "a rate of 0 would make no connection")
}

fn reloads(text: &str) -> Result<u32, String> {
    at_least_one(text, "without a reload nothing would be proven; give at least 1")
}

fn connections(text: &str) -> Result<usize, String> {
    at_least_one(text, "keep at least one connection")
}

fn timeout(text: &str) -> Result<Duration, String> {
    match config::parse_duration(text) {
        Ok(time) if time.is_zero() => Err("in no time nothing can be served; give for example \"10s\"".into()),
        parsed => parsed,
    }
}

pub(super) fn run(
    context: &Context,
    arguments: Arguments,
    inheritance: std::io::Result<Inheritance>,
) -> Result<Exit, Failure> {
    let usage = |message: String| Failure::new(Exit::Usage, message);
    let protocol = Protocol { tls: arguments.tls, http: arguments.http.clone(), keep_alive: arguments.keep_alive };
    protocol.check().map_err(|error| usage(error.to_string()))?;
    if arguments.reload_command.as_ref().is_some_and(|command| command.trim().is_empty()) {
        return Err(usage(
            "--reload-command is empty: nothing would be reloaded; leave it out to ask the daemon".into(),
        ));
    }
    let place = Place::parse(&arguments.target).map_err(|error| usage(error.to_string()))?;
    arguments.report.as_deref().map_or(Ok(()), report_file::check).map_err(usage)?;
    let internal = |what: &str, error: std::io::Error| Failure::new(Exit::Internal, format!("{what}: {error}"));
    let inheritance = inheritance.map_err(|error| internal("cannot read this process's limits", error))?;
    sys::wait_for_children().map_err(|error| internal("cannot set SIGCHLD", error))?;
    if let Err(error) = sys::raise_descriptor_limit() {
        log::debug!("the limit of descriptors cannot be raised: {error}");
    }
    let doubt = match arguments.reload_command {
        Some(_) => None,
        None => by_daemon::check(context, &place, arguments.service.as_deref())?,
    };
    if let Some(doubt) = doubt.as_ref().filter(|_| !context.quiet) {
        eprintln!("reloader: {doubt}");
    }
    let settings = settings(&arguments, protocol, doubt);
    let address = match trial(&place, &settings.protocol, arguments.timeout) {
        Ok(address) => address,
        Err(TrialError::Load(error)) => return Err(no_load(error)),
        Err(error) => return not_begun(&arguments, &settings, &error),
    };
    let load = settings.protocol.load(&place, &address).map_err(no_load)?.timeout(arguments.timeout);
    announce(context, &settings, &address);
    let findings =
        Context::runtime()?.block_on(reloaded(context, &arguments, settings, &address, load, inheritance))?;
    conclude(context, &arguments, &findings)
}

fn settings(arguments: &Arguments, protocol: Protocol, doubt: Option<String>) -> Settings {
    Settings {
        target: arguments.target.clone(),
        protocol,
        rate: arguments.rate,
        reloads: arguments.reloads,
        interval: arguments.interval,
        command: arguments.reload_command.clone(),
        command_line: command_line(std::env::args_os()),
        doubt,
    }
}

/// What is not UTF-8 cannot be told as it is.
fn command_line(words: impl Iterator<Item = OsString>) -> String {
    words.map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

/// As a shell would take it.
fn quoted(word: &str) -> String {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "-_./:=@,+%[]".contains(character);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

fn no_load(error: LoadError) -> Failure {
    match error {
        LoadError::Unavailable(_) | LoadError::Panicked => Failure::new(Exit::Internal, error),
        _ => Failure::new(Exit::Usage, error),
    }
}

fn not_begun(arguments: &Arguments, settings: &Settings, error: &TrialError) -> Result<Exit, Failure> {
    let (result, exit) = match error {
        TrialError::Unserved { .. } => ("unserved", Exit::Failed),
        TrialError::NotKept(_) => ("unmeasured", Exit::Usage),
        TrialError::Own { .. } => ("unmeasured", Exit::TryAgain),
        TrialError::Load(_) => ("unmeasured", Exit::Internal),
    };
    if arguments.format.json {
        output::json(&json_without_figures(settings, result, &error.to_string()))?;
    }
    Err(Failure::new(exit, error))
}

fn announce(context: &Context, settings: &Settings, address: &Target) {
    if context.quiet {
        return;
    }
    let by = settings.command.as_ref().map_or("the daemon".to_owned(), |command| format!("`{command}`"));
    let times = if settings.reloads == 1 { "once".to_owned() } else { format!("{} times", settings.reloads) };
    eprintln!(
        "{address}: {} at {}/s, reloaded {times} by {by}, {} apart",
        settings.protocol,
        settings.rate,
        humantime::format_duration(settings.interval)
    );
}

async fn reloaded(
    context: &Context,
    arguments: &Arguments,
    settings: Settings,
    address: &Target,
    load: Load,
    inheritance: Inheritance,
) -> Result<Findings, Failure> {
    let mut interrupts = interrupts(context.quiet)?;
    let bar = Bar::new(context, settings.reloads);
    let show = |stage| bar.show(stage);
    let address = address.to_string();
    let found = match settings.command.clone() {
        Some(command) => {
            let shell = Shell { command, inheritance: Some(inheritance) };
            prove(settings, address, load, &shell, &mut interrupts, &show).await
        }
        None => {
            let daemon = ByDaemon { context, service: arguments.service.clone() };
            prove(settings, address, load, &daemon, &mut interrupts, &show).await
        }
    };
    drop(bar);
    found.map_err(|error| match error {
        ProveError::Abandoned(signal) => Failure::new(Exit::Command(128 + signal as u8), error),
        ProveError::Load(_) => Failure::new(Exit::Internal, error),
    })
}

/// The first one is heard when the reload has ended, which may take long: that is said.
fn interrupts(quiet: bool) -> Result<UnboundedReceiver<Interrupt>, Failure> {
    let (sender, receiver) = unbounded_channel();
    let told = Arc::new(AtomicBool::new(quiet));
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let mut caught =
            signal(kind).map_err(|error| Failure::new(Exit::Internal, format!("cannot catch signals: {error}")))?;
        let sender = sender.clone();
        let told = Arc::clone(&told);
        tokio::spawn(async move {
            while caught.recv().await.is_some() && sender.send(kind.as_raw_value()).is_ok() {
                if !told.swap(true, Ordering::Relaxed) {
                    eprintln!("reloader: ends once no reload is under way any more; a second signal ends at once");
                }
            }
        });
    }
    Ok(receiver)
}

fn conclude(context: &Context, arguments: &Arguments, findings: &Findings) -> Result<Exit, Failure> {
    let verdict = verdict(findings);
    for reload in findings.reloads.iter().filter(|reload| reload.attempt.way == Way::Failed) {
        eprintln!("reloader: {}", reload.attempt.said.as_deref().unwrap_or("a reload failed"));
        reload.attempt.output.iter().for_each(|line| eprintln!("  {line}"));
    }
    let status = status(findings, &verdict);
    // Before anything is printed: who reads that may be gone.
    let written = match &arguments.report {
        Some(path) if !matches!(verdict, Verdict::Unmeasured(_)) => report_file::write(path, &html(findings, &verdict)),
        _ => Ok(()),
    };
    if let Err(message) = &written {
        eprintln!("reloader: {message}");
    }
    if arguments.format.json {
        output::json(&json(findings, &verdict))?;
    } else if matches!(verdict, Verdict::Unmeasured(_)) {
        eprint!("reloader: {}", text(findings, &verdict, verdict.word()));
    } else if !context.quiet {
        output::print(&text(findings, &verdict, &word(&verdict)))?;
    }
    // A loss is told by the status, whatever became of the report.
    Ok(if written.is_err() && status == Exit::Done { Exit::Internal } else { status })
}

fn word(verdict: &Verdict) -> String {
    let colour = match verdict {
        Verdict::Lossless => 32,
        Verdict::Lost | Verdict::ReloadFailed => 31,
        Verdict::Unmeasured(_) => 33,
    };
    output::painted(verdict.word(), colour)
}

fn status(findings: &Findings, verdict: &Verdict) -> Exit {
    match (verdict, findings.cut_short) {
        (Verdict::Lost | Verdict::ReloadFailed, _) => Exit::Failed,
        // Known, whatever else could not be measured.
        (Verdict::Unmeasured(_), _) if findings.a_reload_failed() => Exit::Failed,
        (_, Some(signal)) => Exit::Command(128 + signal as u8),
        (Verdict::Lossless, None) => Exit::Done,
        (Verdict::Unmeasured(_), None) => Exit::TryAgain,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn a_command_line_can_be_given_to_a_shell_again() {
        assert_eq!(["--http=/a", "a b", "it's", ""].map(quoted), ["--http=/a", "'a b'", "'it'\\''s'", "''"]);
    }

    #[test]
    fn a_command_line_need_not_be_utf_8() {
        let words = [&b"reloader"[..], b"--report=/tmp/\xff.html"].map(|word| OsString::from_vec(word.to_vec()));
        assert_eq!(command_line(words.into_iter()), "reloader '--report=/tmp/\u{fffd}.html'");
    }

    #[test]
    fn what_is_no_mistake_of_the_command_line_is_not_called_one() {
        assert_eq!(no_load(LoadError::ZeroRate).exit, Exit::Usage);
        assert_eq!(no_load(LoadError::Panicked).exit, Exit::Internal);
    }

    #[test]
    fn numbers_that_prove_nothing_are_refused_with_a_sentence() {
        assert!(reloads("0").unwrap_err().contains("nothing would be proven"));
        assert!(rate("-1").is_err() && rate("5000000000").is_err() && rate("1e3").is_err());
        assert_eq!((rate("8000"), connections("1")), (Ok(8000), Ok(1)));
    }
}
