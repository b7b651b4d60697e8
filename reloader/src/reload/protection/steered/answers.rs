//! Waits for the answers of an old generation that dies of its stop signal, even in the middle of a reply. Its clients are answered first: new
//! connections go to the new generation already.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::kernel::sock_diag::{self, SockDiagError};
use crate::process::{ProcessScope, run_blocking, sockets_of};
use crate::reload::timing::IN_FLIGHT;
use crate::supervision::steering::ClosingListeners;

/// Each look reads the descriptor tables of the old generation.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Waits until the process tree of `root` owes no answer on the ports of `old`, and has accepted what is queued. At most for `timeout`: a client that was
/// promised an answer for later (a long poll) is not waited for.
pub(super) async fn until_answered(old: &Arc<ClosingListeners>, root: u32, timeout: Duration) {
    tokio::time::sleep(IN_FLIGHT).await;
    let deadline = Instant::now() + timeout;
    while Instant::now() < deadline {
        let old = old.clone();
        // Where the kernel does not tell, there is nothing to wait for.
        if !run_blocking(move || owes(&old, root)).await.unwrap_or(false) {
            return;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// A connection goes from the queue to a process: read in this order, each is seen.
fn owes(old: &ClosingListeners, root: u32) -> Result<bool, SockDiagError> {
    if old.queued()? > 0 {
        return Ok(true);
    }
    let processes = ProcessScope::All.processes(root);
    let open = sockets_of(&processes);
    for port in old.ports() {
        if sock_diag::unanswered(port)?.iter().any(|connection| open.contains_key(&connection.inode)) {
            return Ok(true);
        }
    }
    Ok(false)
}
