//! `reloader stop`

use super::{Context, Exit, Failure, client};
use crate::daemon::protocol::{Reply, Request};

pub(super) fn run(context: &Context) -> Result<Exit, Failure> {
    match client::ask(context, &Request::Stop, None, |_| {})? {
        Reply::Stopped { drains, with_programs, stays } => {
            if stays && !context.quiet {
                eprintln!("the daemon has ended; HAProxy belongs to its own unit and serves on (companion mode)");
            }
            if !drains.is_empty() && !context.quiet {
                eprintln!("the daemon has ended; {}", who_drains(&drains));
                for pid in with_programs {
                    eprintln!(
                        "process {pid} runs programs (`program` sections), which keep it: end it then with `kill {pid}`"
                    );
                }
            }
            Ok(Exit::Done)
        }
        other => Err(Failure::new(Exit::Internal, format!("the daemon answered something else: {other:?}"))),
    }
}

fn who_drains(pids: &[u32]) -> String {
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
    fn one_and_several() {
        assert_eq!(who_drains(&[7]), "process 7 drains open connections and ends after them");
        assert_eq!(who_drains(&[7, 8]), "processes 7, 8 drain open connections and end after them");
    }
}
