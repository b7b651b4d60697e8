//! Reloads by the daemon, as `reloader reload` has them done.

use std::time::Duration;

use super::{Context, Exit, Failure, client};
use crate::daemon::protocol::{Reply, Request};
use crate::load::Target;
use crate::prove::{Attempt, Place, Reload, Way};
use crate::reload::receipt::{Outcome, Receipt};
use crate::supervision::status::{ServiceStatus, Status};

/// A reload may wait for peers and for generations that drain.
const PATIENCE: Duration = Duration::from_secs(120);

/// Asks the daemon.
pub(super) struct ByDaemon<'a> {
    pub(super) context: &'a Context,
    pub(super) service: Option<String>,
}

impl Reload for ByDaemon<'_> {
    async fn reload(&self) -> Attempt {
        let request = Request::Reload { dry_run: false, service: self.service.clone() };
        match client::converse(self.context, &request, Some(PATIENCE), |_| {}).await {
            Ok(Reply::Receipt { receipt, .. }) => attempt(*receipt),
            Ok(other) => failed(format!("the daemon answered something else: {other:?}")),
            Err(failure) => failed(failure.message),
        }
    }
}

fn attempt(receipt: Receipt) -> Attempt {
    let way = match receipt.result {
        Outcome::Proven => Way::Proven,
        Outcome::Unproven => Way::Unproven,
        Outcome::Failed => Way::Failed,
    };
    let why = receipt.listeners.iter().find_map(|listener| listener.why.clone());
    let said = receipt.reason.or(why.filter(|_| way == Way::Unproven));
    Attempt { way, said, output: receipt.server_log }
}

fn failed(said: String) -> Attempt {
    Attempt { way: Way::Failed, said: Some(said), output: Vec::new() }
}

/// Whether there is a daemon, before anything is loaded. Gives the doubt that there is where it does not serve the target.
pub(super) fn check(context: &Context, place: &Place, service: Option<&str>) -> Result<Option<String>, Failure> {
    let asked = client::ask(context, &Request::Status, Some(client::PATIENCE), |_| {});
    let reply = asked.map_err(|failure| match failure.exit {
        Exit::NoDaemon => Failure::new(
            Exit::NoDaemon,
            format!("{}; or name what reloads the service with --reload-command", failure.message),
        ),
        _ => failure,
    })?;
    let elsewhere = matches!(reply, Reply::Status(status) if !serves(&status, place, service));
    Ok(elsewhere
        .then(|| format!("the daemon serves nothing at {}: what is reloaded may not be what is loaded", place.text)))
}

/// By the port alone: what an address leads to is more than can be known here.
fn serves(status: &Status, place: &Place, name: Option<&str>) -> bool {
    let is_meant = |service: &&ServiceStatus| name.is_none() || service.service.as_deref() == name;
    let serving = status.all().filter(is_meant).filter_map(|service| service.serving.as_ref());
    let addresses: Vec<&str> =
        serving.flat_map(|serving| &serving.listeners).map(|listener| listener.address.as_str()).collect();
    place.addresses.iter().any(|target| match target {
        Target::Tcp(address) => {
            let port = format!(":{}", address.port());
            addresses.iter().any(|listener| listener.ends_with(&port))
        }
        other => addresses.iter().any(|listener| other.to_string().ends_with(listener)),
    })
}
