//! The command line, with one module per command. Data goes to standard output, everything else to standard error.

mod check;
mod client;
#[cfg(test)]
mod command_lines;
mod context;
mod daemon;
mod exit;
mod guard;
mod history;
mod hold;
mod launch;
mod output;
mod probe;
mod prove;
#[cfg(test)]
mod reference;
mod release;
mod reload;
mod signal;
mod status;
mod stop;
mod takeover;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use context::Context;
pub use exit::{CliError, Exit};

use crate::sys::Inheritance;

/// Reloads HAProxy without losing a connection, and proves it.
#[derive(Debug, Parser)]
#[command(name = "reloader", version, arg_required_else_help = true, after_help = exit::help())]
struct Arguments {
    /// Reloader's configuration [default: /etc/reloader/reloader.toml, which need not exist].
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The daemon's control socket [default: control-socket of the configuration].
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Log more (-vv: everything).
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Print errors only.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the privileged daemon in the foreground.
    Daemon,
    /// Reload now and wait for the outcome.
    Reload(reload::Arguments),
    /// Send a signal to the processes of a service, for hooks such as log rotation.
    Signal(signal::Arguments),
    /// Retire the serving generation and end the daemon.
    Stop,
    /// Show what serves, what drains and what is held.
    Status(output::Format),
    /// Show what this kernel and this HAProxy can do, and the rung that each listener would get.
    Probe(output::Format),
    /// Validate reloader's configuration, then HAProxy's.
    Check(check::Arguments),
    /// Show past receipts, newest first.
    History(history::Arguments),
    /// Load a service while it is reloaded, and tell whether a connection was lost.
    Prove(prove::Arguments),
    /// Hold SYNs while a command stops one server and starts another.
    Hold(hold::Arguments),
    /// Emergency: release every hold, also those of a dead holder.
    Release(output::Format),
    /// Hand a running systemd unit of HAProxy to reloader, or back.
    Takeover(takeover::Arguments),
    /// Release a hold when its holder dies; `hold` and the daemon start it.
    #[command(hide = true)]
    Guard,
    /// Become the server of a service; only the daemon runs this command.
    #[command(hide = true)]
    Launch(launch::Arguments),
}

/// Runs the command on the command line, and returns its exit status.
pub fn main() -> ExitCode {
    let inheritance = Inheritance::capture();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done }.into();
        }
    };
    start_log(&arguments);
    let context = Context { config_path: arguments.config, socket: arguments.socket, quiet: arguments.quiet };
    let result = match arguments.command {
        Command::Daemon => daemon::run(&context, inheritance),
        Command::Reload(arguments) => reload::run(&context, &arguments),
        Command::Signal(arguments) => signal::run(&context, &arguments),
        Command::Stop => stop::run(&context),
        Command::Status(format) => status::run(&context, format),
        Command::Probe(format) => probe::run(&context, format),
        Command::Check(arguments) => check::run(&context, &arguments),
        Command::History(arguments) => history::run(&context, &arguments),
        Command::Prove(arguments) => prove::run(&context, arguments, inheritance),
        Command::Hold(arguments) => hold::run(&context, arguments, inheritance),
        Command::Release(format) => release::run(&context, format),
        Command::Takeover(arguments) => takeover::run(&context, &arguments),
        Command::Guard => guard::run(),
        Command::Launch(arguments) => launch::run(&arguments, inheritance),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("reloader: {}", error.message);
            error.exit.into()
        }
    }
}

fn start_log(arguments: &Arguments) {
    let level = match (arguments.quiet, arguments.verbose, &arguments.command) {
        (true, ..) => "error",
        (false, 0, Command::Daemon) => "info",
        // The holder has logged these warnings already.
        (false, 0, Command::Guard) => "warn,reloader::kernel::netlink=error",
        (false, 0, _) => "warn",
        (false, 1, _) => "debug,aya=warn",
        _ => "trace",
    };
    // netlink_proto logs messages that it cannot parse, and errors that its caller reports (kernel/netlink).
    let filter = format!("{level},netlink_proto=off");
    let mut builder = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(filter));
    // Under systemd the journal adds the time.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        builder.format_timestamp(None);
    }
    builder.init();
}
