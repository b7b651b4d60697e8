//! Reloads by the daemon, as `reloader reload` has them done.

use std::time::Duration;

use super::{Context, Exit, Failure, client};
use crate::daemon::protocol::{Reply, Request};
use crate::load::Target;
use crate::model::listener::Family;
use crate::prove::{Attempt, Place, Reload, Way};
use crate::receipt::{Outcome, Receipt};
use crate::supervision::status::{ListenerStatus, Status};

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
    Ok(match reply {
        Reply::Status(status) => doubt(&status, place, service),
        _ => None,
    })
}

/// Where what is reloaded does not serve the target. Pure.
fn doubt(status: &Status, place: &Place, name: Option<&str>) -> Option<String> {
    // Without a name HAProxy is reloaded, or the only one: the first.
    let reloaded = status.all().find(|service| name.is_none() || service.service.as_deref() == name);
    let serving = reloaded.and_then(|service| service.serving.as_ref());
    if serving.is_some_and(|serving| serving.listeners.iter().any(|listener| leads_to(place, listener))) {
        return None;
    }
    let whose = match reloaded.and_then(|service| service.service.as_deref()).or(name) {
        Some(name) => format!("the daemon's service {name}"),
        None => "the daemon".into(),
    };
    Some(format!("{whose} serves nothing at {}: what is reloaded may not be what is loaded", place.text))
}

/// By the port alone: what an address leads to is more than can be known here.
fn leads_to(place: &Place, listener: &ListenerStatus) -> bool {
    let address = listener.address.as_str();
    place.addresses.iter().any(|target| match (target, listener.family) {
        (Target::Tcp(target), Family::Inet | Family::Inet6) => port(address) == Some(target.port()),
        (Target::Tcp(_), _) => false,
        (other, _) => other.to_string().ends_with(address),
    })
}

/// The TCP port in what `Endpoint` writes: behind it may stand an interface and a namespace, in the brackets before it a zone.
fn port(address: &str) -> Option<u16> {
    if address.starts_with("udp@") {
        return None;
    }
    let end = address.rsplit_once(']').map_or(address, |(_, end)| end);
    end.split(['%', ' ']).next()?.rsplit_once(':')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::listener::Role;
    use crate::supervision::status::{ServiceStatus, Serving};

    #[test]
    fn a_port_is_read_from_whatever_an_endpoint_is_written_like() {
        for (address, expected) in [
            ("0.0.0.0:80", Some(80)),
            ("0.0.0.0:80%eth0", Some(80)),
            ("[fe80::1%2]:80%eth0", Some(80)),
            ("[::]:80 (namespace web)", Some(80)),
            ("udp@[::]:443", None),
        ] {
            assert_eq!(port(address), expected, "{address}");
        }
    }

    fn service(name: &str, address: &str, family: Family) -> ServiceStatus {
        let listener = ListenerStatus { address: address.into(), family, role: Role::Traffic, inode: 1 };
        let serving =
            Serving { generation: 1, pid: 1, config: String::new(), since: String::new(), listeners: vec![listener] };
        ServiceStatus { service: Some(name.into()), serving: Some(serving), ..ServiceStatus::default() }
    }

    #[test]
    fn what_another_service_serves_is_doubted() {
        let status = Status {
            main: service("haproxy", "0.0.0.0:80", Family::Inet),
            services: [("app".to_owned(), service("app", "/run/app:8000", Family::Unix))].into(),
            ..Status::default()
        };
        let doubt = |target: &str, name| doubt(&status, &Place::parse(target).unwrap(), name);
        assert_eq!(doubt("127.0.0.1:80", None), None);
        assert_eq!(doubt("unix@/run/app:8000", Some("app")), None);
        let told = doubt("127.0.0.1:80", Some("app")).unwrap();
        assert!(told.starts_with("the daemon's service app serves nothing at 127.0.0.1:80"), "{told}");
        assert!(doubt("unix@/run/app:8000", None).is_some(), "HAProxy is what is reloaded");
        assert!(doubt("127.0.0.1:8000", Some("app")).is_some(), "a path is no port");
    }
}
