//! Prints the results of a run and chooses the exit status.

use super::arguments::Arguments;
use super::report_file;
use crate::cli::{CliError, Context, Exit, output};
use crate::prove::{Findings, ReloadResult, Verdict, html, json, text, verdict};

const GREEN: u8 = 32;
const RED: u8 = 31;
const YELLOW: u8 = 33;

pub(super) fn show(context: &Context, arguments: &Arguments, findings: &Findings) -> Result<Exit, CliError> {
    let verdict = verdict(findings);
    show_failed_reloads(findings);
    let exit = exit(findings, &verdict);
    // The report is written before any output on stdout. If the reader of stdout is gone, that output ends this process.
    let written = match &arguments.report {
        Some(path) if !is_unmeasured(&verdict) => report_file::write(path, &html(findings, &verdict)),
        _ => Ok(()),
    };
    if let Err(message) = &written {
        eprintln!("reloader: {message}");
    }
    if arguments.format.json {
        output::json(&json(findings, &verdict))?;
    } else if is_unmeasured(&verdict) {
        eprint!("reloader: {}", text(findings, &verdict, verdict.word()));
    } else if !context.quiet {
        output::print(&text(findings, &verdict, &coloured_word(&verdict)))?;
    }
    // A report that cannot be written does not hide a loss.
    Ok(if written.is_err() && exit == Exit::Done { Exit::Internal } else { exit })
}

fn is_unmeasured(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Unmeasured(_))
}

fn show_failed_reloads(findings: &Findings) {
    for reload in findings.reloads.iter().filter(|reload| reload.report.result == ReloadResult::Failed) {
        eprintln!("reloader: {}", reload.report.reason.as_deref().unwrap_or("a reload failed"));
        reload.report.output.iter().for_each(|line| eprintln!("  {line}"));
    }
}

fn coloured_word(verdict: &Verdict) -> String {
    let colour = match verdict {
        Verdict::Lossless => GREEN,
        Verdict::Lost | Verdict::ReloadFailed => RED,
        Verdict::Unmeasured(_) => YELLOW,
    };
    output::painted(verdict.word(), colour)
}

fn exit(findings: &Findings, verdict: &Verdict) -> Exit {
    match (verdict, findings.cut_short) {
        (Verdict::Lost | Verdict::ReloadFailed, _) => Exit::Failed,
        // A reload that failed is known even where the connections could not be measured.
        (Verdict::Unmeasured(_), _) if findings.has_failed_reload() => Exit::Failed,
        (_, Some(signal)) => Exit::Command(128 + signal as u8),
        (Verdict::Lossless, None) => Exit::Done,
        (Verdict::Unmeasured(_), None) => Exit::TryAgain,
    }
}
