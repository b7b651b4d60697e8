//! `reloader status`: shows what serves, what drains and what is held.

use std::path::Path;

use super::{CliError, Context, Exit, client, output};
use crate::daemon::protocol::{Reply, Request};
use crate::model::listener::Role;
use crate::process;
use crate::supervision::records::{GenerationRecord, GenerationRecords, State};
use crate::supervision::status::{Draining, HoldStatus, ListenerStatus, ServiceStatus, Status};

/// With more listeners than this, only their number is shown.
const MAX_LISTED_LISTENERS: usize = 30;

pub(super) fn run(context: &Context, format: output::Format) -> Result<Exit, CliError> {
    let reply = client::ask(context, &Request::Status, client::Timeout::After(client::REPLY_TIMEOUT), |_| {});
    let status = match reply.map_err(|error| with_survivors(context, error))? {
        Reply::Status(status) => status,
        other => return Err(client::unexpected(&other)),
    };
    if format.json {
        output::json(&status)?;
    } else {
        output::print(&text(&status))?;
    }
    Ok(Exit::Done)
}

/// Extends the error "no daemon answers" by the generations that run without a daemon.
fn with_survivors(context: &Context, mut error: CliError) -> CliError {
    if let (Exit::NoDaemon, Ok(config)) = (error.exit, context.config()) {
        let lines = config.names().into_iter().flat_map(|name| survivors(&config.place(&name), &name));
        error.message.extend(lines.map(|line| format!("\n{line}")));
    }
    error
}

/// The generations of a service that run, from the records in its runtime directory.
fn survivors(runtime_dir: &Path, name: &str) -> Vec<String> {
    let is_running = |record: &GenerationRecord| process::start_time(record.pid) == Some(record.start_time);
    let mut records = GenerationRecords::load(runtime_dir).generations;
    records.retain(is_running);
    let describe = |state| match state {
        State::Serving => "serves on without a daemon",
        State::Starting => "was being started when the daemon ended",
        State::Draining => "drains",
    };
    let line = |record: &GenerationRecord| {
        format!("{name}: process {} (generation {}) {}", record.pid, record.number, describe(record.state))
    };
    records.iter().map(line).collect()
}

fn text(status: &Status) -> String {
    let mut rows = Vec::new();
    if status.main.service.is_some() || status.services.is_empty() {
        rows.extend(service_rows(&status.main));
    }
    for (name, service) in &status.services {
        if !rows.is_empty() {
            rows.push(Vec::new());
        }
        rows.push(vec!["service".into(), name.clone()]);
        rows.extend(service_rows(service));
    }
    if !status.services.is_empty() {
        rows.push(Vec::new());
    }
    let holds: Vec<String> = status.holds.iter().map(hold_line).collect();
    rows.extend(listed("held", &holds));
    output::table(&rows)
}

fn service_rows(status: &ServiceStatus) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut row = |key: &str, value: String| rows.push(vec![key.to_owned(), value]);
    match &status.serving {
        Some(serving) => {
            row(
                "serving",
                format!("generation {}, process {}, since {}", serving.generation, serving.pid, serving.since),
            );
            row("config", serving.config.clone());
            for (key, value) in listeners(&serving.listeners, &status.custody) {
                row(key, value);
            }
        }
        None => row("serving", "nothing".into()),
    }
    if let Some(starting) = &status.starting {
        row(
            "starting",
            format!("generation {}, process {}, since {}", starting.generation, starting.pid, starting.since),
        );
        if let Some(line) = &starting.last_line {
            row("", line.clone());
        }
    }
    if let Some(rate) = status.connection_rate {
        row("rate", format!("{rate} connections/s"));
    }
    let generations: Vec<String> = status.draining.iter().map(draining_line).collect();
    rows.extend(listed("draining", &generations));
    let mut row = |key: &str, value: String| rows.push(vec![key.to_owned(), value]);
    if let Some(last) = &status.last_reload {
        let kind = output::word(&last.kind);
        row("last", format!("{} {kind} at {}: {}", output::outcome(last.result), last.at, output::receipt_line(last)));
        if let Some(reason) = &last.reason {
            row("", reason.clone());
        }
    }
    for note in &status.notes {
        row("note", note.clone());
    }
    for warning in &status.warnings {
        row("warning", warning.clone());
    }
    rows
}

/// One row for each value. Only the first row shows the key.
fn listed(key: &str, values: &[String]) -> Vec<Vec<String>> {
    if values.is_empty() {
        return vec![vec![key.to_owned(), "nothing".into()]];
    }
    let key = |number| if number == 0 { key.to_owned() } else { String::new() };
    values.iter().enumerate().map(|(number, value)| vec![key(number), value.clone()]).collect()
}

fn listeners(all: &[ListenerStatus], custody: &[ListenerStatus]) -> Vec<(&'static str, String)> {
    let role = |role| all.iter().filter(|listener| listener.role == role).count();
    let (traffic, control) = (role(Role::Traffic), role(Role::Control));
    let counted = format!("{traffic} traffic, {control} control, {} in custody", custody.len());
    let mut lines = vec![("listeners", counted)];
    if all.len() <= MAX_LISTED_LISTENERS {
        let is_kept = |listener: &ListenerStatus| custody.iter().any(|kept| kept.inode == listener.inode);
        lines.extend(all.iter().map(|listener| {
            let remark = match (listener.role, is_kept(listener)) {
                (Role::Control, _) => " (control)",
                (Role::Traffic, true) => "",
                (Role::Traffic, false) => " (not in custody)",
            };
            ("", format!("{}{remark}  inode {}", listener.address, listener.inode))
        }));
    }
    lines
}

fn draining_line(generation: &Draining) -> String {
    let connections = generation.connections.map_or("unknown".into(), |count| count.to_string());
    format!(
        "generation {}, process {}, for {} s, {connections} connections",
        generation.generation, generation.pid, generation.age_s
    )
}

fn hold_line(hold: &HoldStatus) -> String {
    let listen: Vec<String> = hold.listen.iter().map(ToString::to_string).collect();
    let gate = hold.backend.map_or("not yet".into(), |backend| format!("by {}", output::word(&backend)));
    format!("{} {gate}, process {}, since {}", listen.join(", "), hold.holder, hold.since)
}
