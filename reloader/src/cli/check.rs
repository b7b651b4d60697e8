//! `reloader check`: validates reloader's configuration, then the servers'.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use super::{CliError, Context, Exit, client};
use crate::config::{Config, Haproxy, Mode, Service};
use crate::daemon::protocol::Request;
use crate::fs::accounts;
use crate::haproxy::check::check_command;
use crate::haproxy::scan;
use crate::haproxy::unit_command;
use crate::haproxy::version::Version;
use crate::process::children;
use crate::server::proxy_protocol;

/// The end of a message that follows the server's own output. That output says what is wrong.
const SEE_ABOVE: &str = " (see above)";

/// Arguments of `reloader check`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// For ExecReload=: tell the daemon of an invalid configuration, so that its status shows it.
    #[arg(long)]
    for_reload: bool,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, CliError> {
    let result = check(context);
    if let Err(error) = &result
        && arguments.for_reload
    {
        tell_daemon(context, &error.message);
    }
    result
}

fn tell_daemon(context: &Context, message: &str) {
    // Where the configuration cannot be read, a running daemon most likely has the default socket.
    let config = context.config().ok().or_else(|| Config::parse("").ok());
    let socket = context.socket.clone().or_else(|| Some(config?.control_socket));
    let context = Context { config_path: context.config_path.clone(), socket, quiet: context.quiet };
    let reason = message.lines().next().unwrap_or_default().trim_end_matches(SEE_ABOVE).to_owned();
    if let Err(error) =
        client::ask(&context, &Request::Refused { reason }, client::Timeout::After(client::REPLY_TIMEOUT), |_| {})
    {
        log::warn!("the daemon does not know of the invalid configuration: {}", error.message);
    }
}

fn check(context: &Context) -> Result<Exit, CliError> {
    let config = context.config()?;
    let mut checked = vec!["reloader's".to_owned()];
    if let Some(haproxy) = &config.haproxy {
        let haproxy = check_haproxy(haproxy, config.reload.start_timeout)?;
        checked.push("HAProxy's".into());
        warn_of_proxy_headers(context, &config, &haproxy);
    }
    for (name, service) in &config.services {
        check_program_and_user(name, service)?;
    }
    checked.extend(run_service_checks(&config)?);
    if !context.quiet {
        eprintln!("{} configuration is valid", checked.join(" and "));
    }
    Ok(Exit::Done)
}

fn invalid(message: String) -> CliError {
    CliError::new(Exit::BadConfiguration, message)
}

/// A mismatch is no error, because it was found by small parsers and not by the servers themselves.
fn warn_of_proxy_headers(context: &Context, config: &Config, haproxy: &Haproxy) {
    let warnings = scan::read(&haproxy.config).map(|sources| proxy_protocol::warnings(config, &sources));
    for warning in warnings.unwrap_or_default().iter().filter(|_| !context.quiet) {
        eprintln!("warning: {warning}");
    }
}

/// Returns the table with what its command line says.
fn check_haproxy(haproxy: &Haproxy, timeout: Duration) -> Result<Haproxy, CliError> {
    let haproxy = unit_command::resolve(haproxy).map_err(invalid)?;
    if haproxy.mode == Mode::Supervised {
        let (_, facts) = scan::load(&haproxy.config).map_err(invalid)?;
        facts.lasting_program_sentence().map_or(Ok(()), |sentence| Err(invalid(sentence)))?;
    }
    let version = Version::from_binary(&haproxy.binary, timeout);
    Context::runtime()?.block_on(version).map_err(|error| invalid(error.to_string()))?;
    // HAProxy writes its own messages to this process's standard output and error.
    let status = children::status(&mut check_command(&haproxy)).map_err(|error| {
        invalid(format!("cannot run {}: {error}; set `binary` under [haproxy]", haproxy.binary.display()))
    })?;
    if !status.success() {
        return Err(invalid(format!("HAProxy refuses its configuration{SEE_ABOVE}")));
    }
    Ok(haproxy)
}

/// Checks the program and the user of a service, which its own check does not cover.
fn check_program_and_user(name: &str, service: &Service) -> Result<(), CliError> {
    let program = &service.start[0];
    match std::fs::metadata(program) {
        Ok(metadata) if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 => {}
        Ok(_) => return Err(invalid(format!("service.{name}.start: {program} is not an executable file"))),
        Err(error) => return Err(invalid(format!("service.{name}.start: {program}: {error}"))),
    }
    let key = |key: &str, what: String| invalid(format!("service.{name}.{key}: {what}"));
    for (place, user) in [("user", &service.user), ("socket-user", &service.socket_user)] {
        user.as_deref().map(accounts::user).transpose().map_err(|what| key(place, what))?;
    }
    let group = service.socket_group.as_deref().map(accounts::group);
    group.transpose().map(drop).map_err(|what| key("socket-group", what))
}

/// Runs the `check` of each service that has one. Returns the names of these services, in the genitive.
fn run_service_checks(config: &Config) -> Result<Vec<String>, CliError> {
    let with_check = config.services.iter().filter(|(_, service)| !service.check.is_empty());
    let mut checked = Vec::new();
    for (name, service) in with_check {
        let words: Vec<OsString> = service.check.iter().map(Into::into).collect();
        let status = children::status(Command::new(&words[0]).args(&words[1..]));
        let status = status
            .map_err(|error| invalid(format!("service.{name}.check: cannot run {}: {error}", service.check[0])))?;
        if !status.success() {
            return Err(invalid(format!("service.{name}: {} refuses its configuration{SEE_ABOVE}", service.check[0])));
        }
        checked.push(format!("{name}'s"));
    }
    Ok(checked)
}
