//! `reloader stop`: retires the serving generation of each service and ends the daemon.

use super::{CliError, Context, Exit, client};
use crate::daemon::protocol::{Reply, Request};

pub(super) fn run(context: &Context) -> Result<Exit, CliError> {
    match client::ask(context, &Request::Stop, client::Timeout::Never, |_| {})? {
        Reply::Stopped { drains, with_programs, stays } => {
            if stays && !context.quiet {
                eprintln!(
                    "the daemon has ended; HAProxy belongs to its own unit, and serves on if it served (companion mode)"
                );
            }
            if !drains.is_empty() && !context.quiet {
                eprintln!("the daemon has ended; {}", draining_sentence(&drains));
                for pid in with_programs {
                    eprintln!(
                        "process {pid} does not end by itself, because it runs the programs of `program` sections: end it with `kill {pid}` after \
                         the connections have ended"
                    );
                }
            }
            Ok(Exit::Done)
        }
        other => Err(client::unexpected(&other)),
    }
}

fn draining_sentence(pids: &[u32]) -> String {
    match pids {
        [pid] => format!("process {pid} drains open connections and ends after them"),
        _ => {
            let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
            format!("processes {} drain open connections and end after them", pids.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentence_has_singular_and_plural() {
        assert_eq!(draining_sentence(&[7]), "process 7 drains open connections and ends after them");
        assert_eq!(draining_sentence(&[7, 8]), "processes 7, 8 drain open connections and end after them");
    }
}
