//! `reloader probe`: shows what this kernel and this HAProxy can do, and the rung that each listener would get.

use std::time::Duration;

use serde::Serialize;

use super::{CliError, Context, Exit, client, output};
use crate::config;
use crate::daemon::protocol::{Reply, Request};
use crate::gate::probe::{Ability, abilities};
use crate::haproxy::unit_command;
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
    /// The rung that each listener would get. Where no daemon answers it is empty, and `listeners-unknown` says why.
    listeners: Vec<Planned>,
    listeners_unknown: Option<String>,
    /// What else the operator should know, a sentence each.
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

/// The accept queue of a listener. While no process accepts, connections wait in it.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Backlog {
    address: String,
    /// The number of connections that it has room for.
    limit: u32,
    /// The number of connections in it now.
    queued: u32,
    /// Milliseconds until it is full, if all new connections came to this listener at the current rate; `null` without a rate.
    holds_ms: Option<u64>,
}

pub(super) fn run(context: &Context, format: output::Format) -> Result<Exit, CliError> {
    let config = context.config()?;
    let reply = client::ask(context, &Request::Status, client::Timeout::After(client::REPLY_TIMEOUT), |_| {});
    let (status, listeners_unknown) = match reply {
        Ok(Reply::Status(status)) => (*status, None),
        Ok(other) => return Err(client::unexpected(&other)),
        Err(error) => (Status::default(), Some(error.message)),
    };
    let sockets = sock_diag::listeners().map_err(|error| CliError::new(Exit::Privilege, error))?;
    let haproxy = config.haproxy.as_ref().map(|configured| haproxy(configured, config.reload.start_timeout));
    let probe = Probe {
        abilities: abilities(),
        haproxy: haproxy.transpose()?,
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

fn haproxy(configured: &config::Haproxy, timeout: Duration) -> Result<Haproxy, CliError> {
    let configured = unit_command::resolve(configured).map_err(|why| CliError::new(Exit::BadConfiguration, why))?;
    let binary = configured.binary.display().to_string();
    let version = Context::runtime()?.block_on(Version::from_binary(&configured.binary, timeout));
    Ok(match version {
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
    })
}

fn backlogs(status: &ServiceStatus, sockets: &[ListenSocket]) -> Vec<Backlog> {
    let listeners = status.serving.iter().flat_map(|serving| &serving.listeners);
    let traffic = listeners.filter(|listener| listener.role == Role::Traffic);
    let backlogs = traffic.filter_map(|listener| {
        let socket = sockets.iter().find(|socket| socket.inode == listener.inode)?;
        let rate = status.connection_rate.filter(|rate| *rate > 0);
        Some(Backlog {
            address: listener.address.clone(),
            limit: socket.backlog,
            queued: socket.queued,
            holds_ms: rate.map(|rate| u64::from(socket.backlog) * 1000 / rate),
        })
    });
    backlogs.collect()
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
        Some(reason) => text.push_str(&format!("listeners  unknown: {reason}\n")),
        None => text.push_str(&listeners(probe)),
    }
    text
}

fn haproxy_line(haproxy: &Haproxy) -> String {
    let words = match (&haproxy.version, &haproxy.problem) {
        (Some(version), _) if haproxy.passes_sockets == Some(true) => {
            format!("{version}: passes its sockets (1.8 and later)")
        }
        (Some(version), _) => format!("{version}: cannot pass its sockets (1.8 and later can)"),
        (None, problem) => problem.clone().unwrap_or_default(),
    };
    format!("haproxy  {}  {words}\n\n", haproxy.binary)
}

fn listeners(probe: &Probe) -> String {
    let row = |planned: &Planned| {
        let backlog = probe.backlogs.iter().find(|backlog| backlog.address == planned.address);
        let backlog = backlog.map_or(String::new(), |backlog| match backlog.holds_ms {
            Some(ms) => format!("backlog {}: full after {ms} ms at the current rate", backlog.limit),
            None => format!("backlog {}", backlog.limit),
        });
        let rung = output::word(&planned.rung);
        vec![planned.address.clone(), rung, backlog, planned.why.clone().unwrap_or_default()]
    };
    output::table(&probe.listeners.iter().map(row).collect::<Vec<_>>())
}
