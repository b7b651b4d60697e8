//! Conversations over the control socket that are under way: the end of the daemon waits for them.

use std::time::Duration;

use tokio::sync::watch;

/// The longest that a client may put the daemon's end off.
pub(super) const FAREWELL: Duration = Duration::from_secs(5);

/// How many there are.
#[derive(Debug, Clone)]
pub(super) struct Conversations(watch::Sender<usize>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Conversation(watch::Sender<usize>);

impl Conversations {
    pub(super) fn new() -> Conversations {
        Conversations(watch::Sender::new(0))
    }

    pub(super) fn begin(&self) -> Conversation {
        self.0.send_modify(|count| *count += 1);
        Conversation(self.0.clone())
    }

    /// Waits until there is none, or [`FAREWELL`] has passed.
    pub(super) async fn over(&self) {
        let mut count = self.0.subscribe();
        tokio::time::timeout(FAREWELL, count.wait_for(|count| *count == 0)).await.ok();
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
        let conversations = Conversations::new();
        assert_eq!(conversations.over().now_or_never(), Some(()));
        let (one, other) = (conversations.begin(), conversations.clone().begin());
        drop(one);
        assert_eq!(conversations.over().now_or_never(), None);
        drop(other);
        assert_eq!(conversations.over().now_or_never(), Some(()));
    }
}
