//! `reloader probe`

use serde::Serialize;

use super::{Context, Exit, Failure, client, output};
use crate::config;
use crate::daemon::protocol::{Reply, Request};
use crate::gate::probe::{Ability, abilities};
use crate::haproxy::version::Version;
use crate::kernel::sock_diag::{self, ListenSocket};
use crate::model::listener::Role;
use crate::plan::Planned;
use crate::supervision::status::{ServiceStatus, Status};

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Probe {
    abilities: Vec<Ability>,
    /// `null` where the configuration has other services only.
    haproxy: Option<Haproxy>,
    /// The rung each listener would get; empty with the reason in `listeners-unknown` when no daemon answers.
    listeners: Vec<Planned>,
    listeners_unknown: Option<String>,
    /// What else the operator should know, in sentences.
    notes: Vec<String>,
    /// New connections in the last second, as HAProxy counts them.
    connection_rate: Option<u64>,
    backlogs: Vec<Backlog>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Haproxy {
    binary: String,
    version: Option<String>,
    passes_sockets: Option<bool>,
    close_spread_time: Option<bool>,
    problem: Option<String>,
}

/// How long a listener's accept queue takes what comes while nobody accepts.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Backlog {
    address: String,
    /// Connections it has room for.
    limit: u32,
    /// Connections in it now.
    queued: u32,
    /// Milliseconds until it is full if all connections of the present rate came to this listener; `null` without a rate.
    holds_ms: Option<u64>,
}

pub(super) fn run(context: &Context, format: output::Format) -> Result<Exit, Failure> {
    let config = context.config()?;
    let (status, listeners_unknown) = match client::ask(context, &Request::Status, Some(client::PATIENCE), |_| {}) {
        Ok(Reply::Status(status)) => (*status, None),
        Ok(_) => return Err(Failure::new(Exit::Internal, "the daemon answered something else")),
        Err(failure) => (Status::default(), Some(failure.message)),
    };
    let sockets = sock_diag::listeners().map_err(|error| Failure::new(Exit::Privilege, error))?;
    let probe = Probe {
        abilities: abilities(),
        haproxy: config.haproxy.as_ref().map(haproxy),
        backlogs: status.all().flat_map(|service| backlogs(service, &sockets)).collect(),
        connection_rate: status.main.connection_rate,
        listeners: status.all().flat_map(|service| service.plan.clone()).collect(),
        notes: status.all().flat_map(|service| service.notes.clone()).collect(),
        listeners_unknown,
    };
    if format.json {
        output::json(&probe)?;
    } else {
        output::print(&text(&probe))?;
    }
    Ok(Exit::Done)
}

fn haproxy(configured: &config::Haproxy) -> Haproxy {
    let binary = configured.binary.display().to_string();
    match Version::from_binary(&configured.binary) {
        Ok(version) => Haproxy {
            binary,
            version: Some(version.to_string()),
            passes_sockets: Some(version.passes_sockets()),
            close_spread_time: Some(version.spreads_closing()),
            problem: None,
        },
        Err(error) => Haproxy {
            binary,
            version: None,
            passes_sockets: None,
            close_spread_time: None,
            problem: Some(error.to_string()),
        },
    }
}

fn backlogs(status: &ServiceStatus, sockets: &[ListenSocket]) -> Vec<Backlog> {
    let listeners = status.serving.iter().flat_map(|serving| &serving.listeners);
    let traffic = listeners.filter(|listener| listener.role == Role::Traffic);
    let found = traffic.filter_map(|listener| {
        let socket = sockets.iter().find(|socket| socket.inode == listener.inode)?;
        let rate = status.connection_rate.filter(|rate| *rate > 0);
        Some(Backlog {
            address: listener.address.clone(),
            limit: socket.backlog,
            queued: socket.queued,
            holds_ms: rate.map(|rate| u64::from(socket.backlog) * 1000 / rate),
        })
    });
    found.collect()
}

fn text(probe: &Probe) -> String {
    let mut text = String::new();
    let ability = |ability: &Ability| {
        let present = ability.present.map_or("unknown", |present| if present { "yes" } else { "no" });
        vec![ability.name.to_owned(), present.to_owned(), ability.how.clone(), ability.follows.clone()]
    };
    text.push_str(&output::table(&probe.abilities.iter().map(ability).collect::<Vec<_>>()));
    text.push('\n');
    if let Some(haproxy) = &probe.haproxy {
        text.push_str(&haproxy_line(haproxy));
    }
    for note in &probe.notes {
        text.push_str(&format!("note  {note}\n\n"));
    }
    match &probe.listeners_unknown {
        Some(why) => text.push_str(&format!("listeners  unknown: {why}\n")),
        None => text.push_str(&listeners(probe)),
    }
    text
}

fn haproxy_line(haproxy: &Haproxy) -> String {
    let words = match (&haproxy.version, &haproxy.problem) {
        (Some(version), _) if haproxy.passes_sockets == Some(true) => {
            format!("{version}: passes its sockets (1.8 and later)")
        }
        (Some(version), _) => format!("{version}: cannot pass its sockets (1.8 is the first that can)"),
        (None, problem) => problem.clone().unwrap_or_default(),
    };
    format!("haproxy  {}  {words}\n\n", haproxy.binary)
}

fn listeners(probe: &Probe) -> String {
    let row = |planned: &Planned| {
        let backlog = probe.backlogs.iter().find(|backlog| backlog.address == planned.address);
        let backlog = backlog.map_or(String::new(), |backlog| match backlog.holds_ms {
            Some(ms) => format!("backlog {}: {ms} ms at the present rate", backlog.limit),
            None => format!("backlog {}", backlog.limit),
        });
        let rung = output::word(&planned.rung);
        vec![planned.address.clone(), rung, backlog, planned.why.clone().unwrap_or_default()]
    };
    output::table(&probe.listeners.iter().map(row).collect::<Vec<_>>())
}
