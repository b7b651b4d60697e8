//! `reloader stop`

use super::{Context, Exit, Failure, client};
use crate::daemon::protocol::{Reply, Request};

pub(super) fn run(context: &Context) -> Result<Exit, Failure> {
    match client::ask(context, &Request::Stop, None, |_| {})? {
        Reply::Stopped { drains, stays } => {
            if stays && !context.quiet {
                eprintln!("the daemon has ended; HAProxy belongs to its own unit and serves on (companion mode)");
            }
            if !drains.is_empty() && !context.quiet {
                let pids: Vec<String> = drains.iter().map(|pid| format!("process {pid}")).collect();
                eprintln!("the daemon has ended; {} drains open connections and ends after them", pids.join(", "));
            }
            Ok(Exit::Done)
        }
        other => Err(Failure::new(Exit::Internal, format!("the daemon answered something else: {other:?}"))),
    }
}
