//! `reloader stop`

use super::{Context, Exit, Failure, client};
use crate::daemon::protocol::{Reply, Request};

pub(super) fn run(context: &Context) -> Result<Exit, Failure> {
    match client::ask(context, &Request::Stop, None, |_| {})? {
        Reply::Stopped { retired } => {
            if let (Some(pid), false) = (retired, context.quiet) {
                eprintln!("HAProxy (process {pid}) drains its open connections and ends; the daemon has ended");
            }
            Ok(Exit::Done)
        }
        other => Err(Failure::new(Exit::Internal, format!("the daemon answered something else: {other:?}"))),
    }
}
