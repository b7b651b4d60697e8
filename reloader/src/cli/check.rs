//! `reloader check`

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use nix::unistd::User;

use super::{Context, Exit, Failure, client};
use crate::config::{Config, Haproxy, Mode, Service};
use crate::daemon::protocol::Request;
use crate::haproxy::check::check_command;
use crate::haproxy::scan;
use crate::haproxy::version::Version;
use crate::process::children;

/// The server itself has said what is wrong.
const SEE_ABOVE: &str = " (see above)";

/// Arguments of `reloader check`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// A reload waits for the answer: the daemon is told of a refusal, and says so in its status.
    #[arg(long)]
    for_reload: bool,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Failure> {
    let checked = check(context);
    if let Err(failure) = checked.as_ref().map_err(|failure| &failure.message)
        && arguments.for_reload
    {
        tell_daemon(context, failure);
    }
    checked
}

fn tell_daemon(context: &Context, why: &str) {
    // Where the file cannot be read, a daemon that answers is most likely where it is without one.
    let config = context.config().ok().or_else(|| Config::parse("").ok());
    let socket = context.socket.clone().or_else(|| Some(config?.control_socket));
    let context = Context { config_path: context.config_path.clone(), socket, quiet: context.quiet };
    let reason = why.lines().next().unwrap_or_default().trim_end_matches(SEE_ABOVE).to_owned();
    if let Err(failure) = client::ask(&context, &Request::Refused { reason }, Some(client::PATIENCE), |_| {}) {
        log::warn!("the daemon could not be told: {}", failure.message);
    }
}

fn check(context: &Context) -> Result<Exit, Failure> {
    let config = context.config()?;
    let mut checked = vec!["reloader's".to_owned()];
    if let Some(haproxy) = &config.haproxy {
        check_haproxy(haproxy)?;
        checked.push("HAProxy's".into());
    }
    for (name, service) in &config.services {
        check_service(name, service)?;
    }
    checked.extend(check_services(&config)?);
    if !context.quiet {
        eprintln!("{} configuration is valid", checked.join(" and "));
    }
    Ok(Exit::Done)
}

fn bad(message: String) -> Failure {
    Failure::new(Exit::BadConfiguration, message)
}

fn check_haproxy(haproxy: &Haproxy) -> Result<(), Failure> {
    if haproxy.mode == Mode::Supervised {
        let (_, facts) = scan::load(&haproxy.config).map_err(bad)?;
        facts.lasting_program_sentence().map_or(Ok(()), |sentence| Err(bad(sentence)))?;
    }
    Version::from_binary(&haproxy.binary).map_err(|error| bad(error.to_string()))?;
    // HAProxy's own lines go where it writes them.
    let status = children::status(&mut check_command(haproxy)).map_err(|error| {
        bad(format!("cannot run {}: {error}; set `binary` under [haproxy]", haproxy.binary.display()))
    })?;
    if !status.success() {
        return Err(bad(format!("HAProxy refuses its configuration{SEE_ABOVE}")));
    }
    Ok(())
}

/// What its own check does not tell.
fn check_service(name: &str, service: &Service) -> Result<(), Failure> {
    let program = &service.start[0];
    match std::fs::metadata(program) {
        Ok(found) if found.is_file() && found.permissions().mode() & 0o111 != 0 => {}
        Ok(_) => return Err(bad(format!("service.{name}.start: {program} is no program that can be run"))),
        Err(error) => return Err(bad(format!("service.{name}.start: {program}: {error}"))),
    }
    let user = service.user.as_deref().filter(|user| !User::from_name(user).is_ok_and(|found| found.is_some()));
    match user {
        Some(user) => Err(bad(format!("service.{name}.user: there is no user `{user}` on this machine"))),
        None => Ok(()),
    }
}

/// Returns the names of those that have a check.
fn check_services(config: &Config) -> Result<Vec<String>, Failure> {
    let with_check = config.services.iter().filter(|(_, service)| !service.check.is_empty());
    let mut checked = Vec::new();
    for (name, service) in with_check {
        let words: Vec<OsString> = service.check.iter().map(Into::into).collect();
        let status = children::status(Command::new(&words[0]).args(&words[1..]));
        let status =
            status.map_err(|error| bad(format!("service.{name}.check: cannot run {}: {error}", service.check[0])))?;
        if !status.success() {
            return Err(bad(format!("service.{name}: {} refuses its configuration{SEE_ABOVE}", service.check[0])));
        }
        checked.push(format!("{name}'s"));
    }
    Ok(checked)
}
