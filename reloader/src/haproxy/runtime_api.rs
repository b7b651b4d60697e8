//! Asks HAProxy's runtime API: one command, one answer, over a stats socket.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const CLI_SOCKETS: &str = "show cli sockets";

/// How its answer begins. Before HAProxy 1.8 it is a list of the commands.
const TABLE_OF_CLI_SOCKETS: &str = "# socket";

/// The parts of the answer to `show info` that the daemon uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// HAProxy's version, as HAProxy writes it.
    pub version: String,
    /// The process that answers: in master-worker mode the worker.
    pub pid: u32,
    /// New connections in the last second. `None` if this version does not report them.
    pub connection_rate: Option<u64>,
}

/// Sends one command and reads the answer to its end.
///
/// # Errors
/// Where the socket does not answer, or not within `timeout` (`TimedOut`).
pub async fn ask(socket: &Path, command: &str, timeout: Duration) -> io::Result<String> {
    let exchange = async {
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(format!("{command}\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    tokio::time::timeout(timeout, exchange).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Asks which process answers on `socket`. Waits as long as the process takes to begin serving, at most `timeout`.
///
/// # Errors
/// The errors of [`ask`], or the answer names no process.
pub async fn info(socket: &Path, timeout: Duration) -> io::Result<Info> {
    let answer = ask(socket, "show info", timeout).await?;
    parse_info(&answer).ok_or_else(not_haproxy)
}

/// [`info`] and [`cli_sockets`] by one request. A HAProxy that starts may hand a second request to a thread that is not ready yet.
///
/// # Errors
/// As [`info`].
pub async fn info_and_cli_sockets(socket: &Path, timeout: Duration) -> io::Result<(Info, Option<Vec<String>>)> {
    let answer = ask(socket, &format!("show info;{CLI_SOCKETS}"), timeout).await?;
    let info = parse_info(&answer).ok_or_else(not_haproxy)?;
    Ok((info, answer.find(TABLE_OF_CLI_SOCKETS).and_then(|start| parse_cli_sockets(&answer[start..]))))
}

fn not_haproxy() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "`show info` names no Pid: not a HAProxy stats socket")
}

fn parse_info(answer: &str) -> Option<Info> {
    let field = |name: &str| {
        answer.lines().find_map(|line| Some(line.split_once(':').filter(|(key, _)| *key == name)?.1.trim().to_owned()))
    };
    Some(Info {
        version: field("Version")?,
        pid: field("Pid")?.parse().ok()?,
        connection_rate: field("ConnRate").and_then(|rate| rate.parse().ok()),
    })
}

/// The addresses of all CLI sockets, as `show cli sockets` prints them (`unix@PATH`, `ipv4@ADDRESS:PORT`, ...). `None` if this HAProxy does not
/// know the command, which came with 1.8.
///
/// # Errors
/// As [`ask`].
pub async fn cli_sockets(socket: &Path, timeout: Duration) -> io::Result<Option<Vec<String>>> {
    Ok(parse_cli_sockets(&ask(socket, CLI_SOCKETS, timeout).await?))
}

fn parse_cli_sockets(answer: &str) -> Option<Vec<String>> {
    let table = answer.trim_start().strip_prefix(TABLE_OF_CLI_SOCKETS)?;
    let lines = table.lines().skip(1).filter(|line| !line.starts_with('#'));
    Some(lines.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_is_read_by_name() {
        let answer =
            "Name: HAProxy\nVersion: 2.6.12-1+deb12u4\nPid: 6385\nUptime: 0d\nConnRate: 12\nConnRateLimit: 0\n";
        let info = parse_info(answer).unwrap();
        assert_eq!(info, Info { version: "2.6.12-1+deb12u4".into(), pid: 6385, connection_rate: Some(12) });
        assert_eq!(parse_info("Unknown command.\n"), None);
    }

    #[test]
    fn refused_command_names_no_socket() {
        let table = "# socket lvl processes\nunix@/run/a.sock admin all\nipv4@127.0.0.1:99 user all\n";
        assert_eq!(parse_cli_sockets(table), Some(vec!["unix@/run/a.sock".into(), "ipv4@127.0.0.1:99".into()]));
        let help =
            "Unknown command. Please enter one of the following commands only :\n  help           : this message\n";
        assert_eq!(parse_cli_sockets(help), None);
    }
}
