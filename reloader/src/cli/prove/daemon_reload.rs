//! Reloads the service by the daemon, as `reloader reload` does.

use std::cell::RefCell;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::{CliError, Context, Exit, client};
use crate::daemon::protocol::{Reply, Request};
use crate::load::Target;
use crate::model::listener::Family;
use crate::prove::{ReceiptsCut, ReloadMethod, ReloadReport, ReloadResult, TargetSpec};
use crate::receipt::{Kind, Outcome, Receipt};
use crate::supervision::read_newest;
use crate::supervision::status::{ListenerStatus, Status};

/// How long one reload may take. It may wait for peers and for generations that drain.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(120);

/// How long to wait for the ends of the generations and their receipts.
const RECEIPT_TIMEOUT: Duration = Duration::from_secs(5);
const RECEIPT_POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long the daemon may take to store that receipt once its status shows the generation no longer.
const RECEIPT_DELAY: Duration = Duration::from_secs(1);
/// How many receipts are read at most.
const MAX_RECEIPTS: usize = 10_000;

/// Asks the daemon to reload one of its services.
pub(super) struct DaemonReload<'a> {
    context: &'a Context,
    /// `None`: the daemon chooses.
    service: Option<String>,
    /// `None`: the receipts cannot be read, or are not asked for.
    since: Option<Receipts>,
    /// What the reloads that did not fail gave. `None`: there was none.
    reloaded: RefCell<Option<Reloaded>>,
}

/// What is known from the receipts of the reloads.
#[derive(Clone)]
struct Reloaded {
    service: Option<String>,
    /// The number of reloads.
    count: usize,
    /// The generation that the last one began.
    generation: u64,
}

/// The receipts from a moment on.
#[derive(Clone)]
pub(super) struct Receipts {
    state_dir: PathBuf,
    /// The last receipt before.
    last: Option<String>,
}

impl<'a> DaemonReload<'a> {
    pub(super) fn new(context: &'a Context, service: Option<String>, since: Option<Receipts>) -> DaemonReload<'a> {
        DaemonReload { context, service, since, reloaded: RefCell::new(None) }
    }
}

impl Receipts {
    /// Those from now on. `None`: they cannot be read.
    pub(super) fn now(context: &Context) -> Option<Receipts> {
        let state_dir = context.config().ok()?.state_dir;
        let newest = read_newest(&state_dir, 1).ok()?;
        Some(Receipts { last: newest.into_iter().next().map(|receipt| receipt.id), state_dir })
    }

    /// What these receipts of the service say was cut. It blocks.
    fn cut(&self, reloaded: &Reloaded) -> io::Result<ReceiptsCut> {
        // A reload gives its own receipt and one for each end. Other services may give more.
        let mut count = 16 + 4 * reloaded.count;
        loop {
            count = count.min(MAX_RECEIPTS);
            let receipts = read_newest(&self.state_dir, count)?;
            let is_all = receipts.len() < count;
            match since(&receipts, self.last.as_deref(), is_all) {
                Some(new) => {
                    let of_service = new.iter().filter(|receipt| receipt.service == reloaded.service);
                    return Ok(sum(of_service));
                }
                None if is_all || count == MAX_RECEIPTS => return Ok(ReceiptsCut::Unknown),
                None => count *= 2,
            }
        }
    }
}

/// The receipts that were written after `last`, newest first. The one of a reload that is under way has an id from before, so that ids
/// do not tell. `None`: they are not known to be complete.
fn since<'a>(receipts: &'a [Receipt], last: Option<&str>, is_all: bool) -> Option<&'a [Receipt]> {
    match last {
        Some(last) => receipts.iter().position(|receipt| receipt.id == last).map(|before| &receipts[..before]),
        None => is_all.then_some(receipts),
    }
}

/// What these receipts say was cut. It is not known where none of them is one that says so.
fn sum<'a>(receipts: impl Iterator<Item = &'a Receipt>) -> ReceiptsCut {
    let told = receipts.filter(|receipt| matches!(receipt.kind, Kind::Reload | Kind::Restart | Kind::End));
    let mut told = told.map(|receipt| receipt.lost.cut).peekable();
    let cut = told.peek().is_some().then(|| told.sum::<Option<u64>>()).flatten();
    cut.map_or(ReceiptsCut::Unknown, ReceiptsCut::Count)
}

impl ReloadMethod for DaemonReload<'_> {
    async fn reload(&self) -> ReloadReport {
        let request = Request::Reload { dry_run: false, service: self.service.clone(), comment: None };
        match client::ask_in_runtime(self.context, &request, client::Timeout::After(RELOAD_TIMEOUT), |_| {}).await {
            Ok(Reply::Receipt { receipt, .. }) => {
                self.note(&receipt);
                report(*receipt)
            }
            Ok(other) => ReloadReport::failed(client::unexpected(&other).message),
            Err(error) => ReloadReport::failed(error.message),
        }
    }

    async fn receipts_cut(&self) -> ReceiptsCut {
        let reloaded = self.reloaded.borrow().clone();
        let (Some(receipts), Some(reloaded)) = (&self.since, reloaded) else { return ReceiptsCut::Unknown };
        // A sum that is as expected now may still become too large: the receipts are complete after the last end.
        let drained = async {
            while !self.has_drained(&reloaded).await {
                tokio::time::sleep(RECEIPT_POLL_INTERVAL).await;
            }
            tokio::time::sleep(RECEIPT_DELAY).await;
        };
        // A generation may drain for days.
        let _ = tokio::time::timeout(RECEIPT_TIMEOUT, drained).await;
        read(receipts, reloaded).await
    }
}

async fn read(receipts: &Receipts, reloaded: Reloaded) -> ReceiptsCut {
    let receipts = receipts.clone();
    let read = tokio::task::spawn_blocking(move || receipts.cut(&reloaded));
    read.await.ok().and_then(Result::ok).unwrap_or(ReceiptsCut::Unknown)
}

impl DaemonReload<'_> {
    fn note(&self, receipt: &Receipt) {
        let Some(new) = receipt.new.as_ref().filter(|_| receipt.result != Outcome::Failed) else { return };
        let mut reloaded = self.reloaded.borrow_mut();
        let count = reloaded.as_ref().map_or(0, |before| before.count) + 1;
        *reloaded = Some(Reloaded { service: receipt.service.clone(), count, generation: new.generation });
    }

    /// Whether no generation from before the last reload drains.
    async fn has_drained(&self, reloaded: &Reloaded) -> bool {
        let limit = client::Timeout::After(RECEIPT_TIMEOUT);
        match client::ask_in_runtime(self.context, &Request::Status, limit, |_| {}).await {
            Ok(Reply::Status(status)) => has_drained(&status, reloaded),
            _ => false,
        }
    }
}

fn has_drained(status: &Status, reloaded: &Reloaded) -> bool {
    let service = status.all().find(|service| service.service == reloaded.service);
    service.is_some_and(|service| service.draining.iter().all(|one| one.generation >= reloaded.generation))
}

fn report(receipt: Receipt) -> ReloadReport {
    let result = match receipt.result {
        Outcome::Proven => ReloadResult::Proven,
        Outcome::Unproven => ReloadResult::Unproven,
        Outcome::Failed => ReloadResult::Failed,
    };
    let why = receipt.listeners.iter().find_map(|listener| listener.why.clone());
    let reason = receipt.reason.or(why.filter(|_| result == ReloadResult::Unproven));
    ReloadReport { result, reason, output: receipt.server_log }
}

/// Checks, before the load begins, that a daemon answers. Returns a doubt where the service that it will reload does not serve
/// the target.
pub(super) fn check(context: &Context, target: &TargetSpec, service: Option<&str>) -> Result<Option<String>, CliError> {
    let reply = client::ask(context, &Request::Status, client::Timeout::After(client::REPLY_TIMEOUT), |_| {});
    let reply = reply.map_err(|error| match error.exit {
        Exit::NoDaemon => CliError::new(
            Exit::NoDaemon,
            format!("{}; or give the command that reloads the service with --reload-command", error.message),
        ),
        _ => error,
    })?;
    Ok(match reply {
        Reply::Status(status) => doubt(&status, target, service),
        _ => None,
    })
}

/// A sentence where the service that is reloaded does not serve the target.
fn doubt(status: &Status, target: &TargetSpec, name: Option<&str>) -> Option<String> {
    // Without a name the daemon reloads HAProxy, or its only service. Both come first.
    let reloaded = status.all().find(|service| name.is_none() || service.service.as_deref() == name);
    let serving = reloaded.and_then(|service| service.serving.as_ref());
    if serving.is_some_and(|serving| serving.listeners.iter().any(|listener| may_serve(target, listener))) {
        return None;
    }
    let whose = match reloaded.and_then(|service| service.service.as_deref()).or(name) {
        Some(name) => format!("the daemon's service {name}"),
        None => "the daemon".into(),
    };
    Some(format!(
        "{whose} serves nothing at {}: the service that is reloaded may not be the one under load",
        target.text
    ))
}

/// Compares the ports only. Where an address leads to cannot be known here.
fn may_serve(target: &TargetSpec, listener: &ListenerStatus) -> bool {
    let address = listener.address.as_str();
    target.addresses.iter().any(|target| match (target, listener.family) {
        (Target::Tcp(target), Family::Inet | Family::Inet6) => port(address) == Some(target.port()),
        (Target::Tcp(_), _) => false,
        (other, _) => other.to_string().ends_with(address),
    })
}

/// The TCP port in the text of an `Endpoint`. An interface and a namespace may follow the port, and a zone may be in the brackets
/// before it.
fn port(address: &str) -> Option<u16> {
    if address.starts_with("udp@") {
        return None;
    }
    let end = address.rsplit_once(']').map_or(address, |(_, end)| end);
    end.split(['%', ' ']).next()?.rsplit_once(':')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::model::listener::Role;
    use crate::receipt::Recorder;
    use crate::supervision::status::{Draining, ServiceStatus, Serving};

    #[test]
    fn port_is_read_from_every_form_of_an_endpoint() {
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

    #[test]
    fn receipts_that_do_not_know_give_no_sum() {
        let receipt = |kind: Kind, cut: Option<u64>| {
            let mut receipt = Recorder::begin(Some("haproxy"), kind, Instant::now(), 0, None).finish(Ok(()));
            receipt.lost.cut = cut;
            receipt
        };
        let known = [receipt(Kind::Reload, Some(0)), receipt(Kind::End, Some(20)), receipt(Kind::Adopt, None)];
        assert_eq!(sum(known.iter()), ReceiptsCut::Count(20));
        assert_eq!(sum([receipt(Kind::Restart, None)].iter()), ReceiptsCut::Unknown);
        assert_eq!(sum([receipt(Kind::Adopt, Some(0))].iter()), ReceiptsCut::Unknown, "none tells");
    }

    #[test]
    fn receipt_that_began_before_the_last_one_hides_none() {
        let receipt = |id: &str| {
            let mut receipt = Recorder::begin(Some("haproxy"), Kind::End, Instant::now(), 0, None).finish(Ok(()));
            receipt.id = id.into();
            receipt
        };
        // The reload of `1` began before that of `3`, and ended after it.
        let newest_first = ["5", "1", "4", "3", "2"].map(receipt);
        let ids = |last, is_all| {
            let ids = since(&newest_first, last, is_all)?.iter().map(|receipt| receipt.id.as_str());
            Some(ids.collect::<Vec<_>>())
        };
        assert_eq!(ids(Some("3"), false), Some(vec!["5", "1", "4"]));
        assert_eq!(ids(Some("0"), true), None, "the last one is gone");
        assert_eq!(ids(None, true).map(|ids| ids.len()), Some(5));
        assert_eq!(ids(None, false), None, "there may be more");
    }

    #[test]
    fn receipts_are_complete_when_no_generation_from_before_drains() {
        let reloaded = |service: &str| Reloaded { service: Some(service.into()), count: 1, generation: 3 };
        let draining = |generation| {
            let mut main = service("haproxy", "0.0.0.0:80", Family::Inet);
            main.draining = vec![Draining { generation, pid: 1, age_s: 0, connections: None }];
            has_drained(&Status { main, ..Status::default() }, &reloaded("haproxy"))
        };
        assert!(!draining(2));
        assert!(draining(3), "another reload retired it");
        assert!(!has_drained(&Status::default(), &reloaded("app")), "the status lacks it");
    }

    fn service(name: &str, address: &str, family: Family) -> ServiceStatus {
        let listener = ListenerStatus { address: address.into(), family, role: Role::Traffic, inode: 1 };
        let serving =
            Serving { generation: 1, pid: 1, config: String::new(), since: String::new(), listeners: vec![listener] };
        ServiceStatus { service: Some(name.into()), serving: Some(serving), ..ServiceStatus::default() }
    }

    #[test]
    fn target_that_the_service_does_not_serve_raises_a_doubt() {
        let status = Status {
            main: service("haproxy", "0.0.0.0:80", Family::Inet),
            services: [("app".to_owned(), service("app", "/run/app:8000", Family::Unix))].into(),
            ..Status::default()
        };
        let doubt = |target: &str, name| doubt(&status, &TargetSpec::parse(target).unwrap(), name);
        assert_eq!(doubt("127.0.0.1:80", None), None);
        assert_eq!(doubt("unix@/run/app:8000", Some("app")), None);
        let sentence = doubt("127.0.0.1:80", Some("app")).unwrap();
        assert!(sentence.starts_with("the daemon's service app serves nothing at 127.0.0.1:80"), "{sentence}");
        assert!(doubt("unix@/run/app:8000", None).is_some(), "HAProxy is reloaded");
        assert!(doubt("127.0.0.1:8000", Some("app")).is_some(), "a path is not a port");
    }
}
