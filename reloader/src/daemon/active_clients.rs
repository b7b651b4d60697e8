//! Counts the clients that talk over the control socket: the end of the daemon waits for them.

use std::time::Duration;

use tokio::sync::watch;

use crate::process;

/// How long a client may delay the end of PID 1, which ends the client as well.
pub(super) const FAREWELL: Duration = Duration::from_secs(5);
/// The same for any other daemon: its server is not supervised meanwhile, and the next daemon waits.
const ELSEWHERE: Duration = Duration::from_secs(1);

/// The number of clients.
#[derive(Debug, Clone)]
pub(super) struct ActiveClients(watch::Sender<usize>);

/// One client, until it is dropped.
#[derive(Debug)]
pub(super) struct ActiveClient(watch::Sender<usize>);

impl ActiveClients {
    pub(super) fn new() -> ActiveClients {
        ActiveClients(watch::Sender::new(0))
    }

    pub(super) fn begin(&self) -> ActiveClient {
        self.0.send_modify(|count| *count += 1);
        ActiveClient(self.0.clone())
    }

    /// Waits until no client is left, for a limited time.
    pub(super) async fn over(&self) {
        let mut count = self.0.subscribe();
        let patience = if process::is_init() { FAREWELL } else { ELSEWHERE };
        tokio::time::timeout(patience, count.wait_for(|count| *count == 0)).await.ok();
    }
}

impl Drop for ActiveClient {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn wait_ends_with_the_last_client() {
        let active_clients = ActiveClients::new();
        assert_eq!(active_clients.over().now_or_never(), Some(()));
        let (one, other) = (active_clients.begin(), active_clients.clone().begin());
        drop(one);
        assert_eq!(active_clients.over().now_or_never(), None);
        drop(other);
        assert_eq!(active_clients.over().now_or_never(), Some(()));
    }
}
