//! `reloader stop`

use super::{Context, Exit, Failure, client};
use crate::daemon::protocol::{Reply, Request};

pub(super) fn run(context: &Context) -> Result<Exit, Failure> {
    match client::ask(context, &Request::Stop, None, |_| {})? {
        Reply::Stopped { drains } => {
            if let (Some(pid), false) = (drains, context.quiet) {
                eprintln!(
                    "the daemon has ended; HAProxy (process {pid}) drains its open connections and ends after them"
                );
            }
            Ok(Exit::Done)
        }
        other => Err(Failure::new(Exit::Internal, format!("the daemon answered something else: {other:?}"))),
    }
}
