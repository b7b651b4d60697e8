//! Conversations over the control socket that are under way: the end of the daemon waits for them.

use std::time::Duration;

use tokio::sync::watch;

use crate::process;

/// The longest that a client may put off the end of PID 1, which would be the client's own.
pub(super) const FAREWELL: Duration = Duration::from_secs(5);
/// Of any other daemon: nobody looks after its server any more, and the next one waits.
const ELSEWHERE: Duration = Duration::from_secs(1);

/// How many there are.
#[derive(Debug, Clone)]
pub(super) struct ActiveClients(watch::Sender<usize>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Conversation(watch::Sender<usize>);

impl ActiveClients {
    pub(super) fn new() -> ActiveClients {
        ActiveClients(watch::Sender::new(0))
    }

    pub(super) fn begin(&self) -> Conversation {
        self.0.send_modify(|count| *count += 1);
        Conversation(self.0.clone())
    }

    /// Waits until there is none, though not for long.
    pub(super) async fn over(&self) {
        let mut count = self.0.subscribe();
        let patience = if process::is_init() { FAREWELL } else { ELSEWHERE };
        tokio::time::timeout(patience, count.wait_for(|count| *count == 0)).await.ok();
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn it_is_over_with_the_last_one() {
        let active_clients = ActiveClients::new();
        assert_eq!(active_clients.over().now_or_never(), Some(()));
        let (one, other) = (active_clients.begin(), active_clients.clone().begin());
        drop(one);
        assert_eq!(active_clients.over().now_or_never(), None);
        drop(other);
        assert_eq!(active_clients.over().now_or_never(), Some(()));
    }
}
