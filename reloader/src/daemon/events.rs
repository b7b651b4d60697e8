//! Passes requests from the control socket to the loops of the services.

use std::collections::BTreeMap;
use std::time::Instant;

use rustix::process::Signal;
use tokio::sync::mpsc;

use super::protocol::Reply;
use crate::receipt::AskedBy;

/// A client that waits for an answer, or a signal that nothing waits for.
#[derive(Debug)]
pub(crate) struct PendingReply {
    replies: mpsc::UnboundedSender<Reply>,
    /// When the request came: before the main loop could look at it.
    pub(super) asked: Instant,
    /// Who asked, where that is noted.
    pub(super) asked_by: Option<AskedBy>,
}

impl PendingReply {
    /// Notes who asked.
    pub(super) fn from(self, asked_by: AskedBy) -> PendingReply {
        PendingReply { asked_by: Some(asked_by), ..self }
    }

    /// Sends a reply. A client that has gone is not an error.
    pub(crate) fn send(&self, reply: Reply) {
        let _ = self.replies.send(reply);
    }
}

/// What reaches the main loop.
#[derive(Debug)]
pub(super) enum Event {
    /// A reload is wanted.
    Reload(PendingReply),
    /// The end is wanted.
    Stop(PendingReply),
    /// A signal is to be sent to the service's processes.
    Signal(Signal, PendingReply),
    /// A reload was wanted, and its check refused the configuration with this sentence.
    Refused(String),
}

/// The channels by which requests reach each service: senders by name, receivers in the order of `names`.
pub(super) fn channels(
    names: &[String],
) -> (BTreeMap<String, mpsc::UnboundedSender<Event>>, Vec<mpsc::UnboundedReceiver<Event>>) {
    let made = names.iter().map(|name| {
        let (sender, receiver) = mpsc::unbounded_channel();
        ((name.clone(), sender), receiver)
    });
    made.unzip()
}

/// A pending reply, and the end at which the replies arrive.
pub(super) fn pending_reply() -> (PendingReply, mpsc::UnboundedReceiver<Reply>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (PendingReply { replies: sender, asked: Instant::now(), asked_by: None }, receiver)
}
