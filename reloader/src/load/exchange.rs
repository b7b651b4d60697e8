//! Describes the exchange on each connection of a load.

use std::sync::Arc;

use super::tls::Tls;

/// What is sent on a connection, and what the server must answer.
#[derive(Debug, Clone)]
pub enum Exchange {
    /// Nothing is sent. The client closes its side, and the server must close its own with a FIN. A server that loses its
    /// accept queue sends a reset instead.
    Close,
    /// This HTTP/1 request is sent. The status of the reply must be 2xx or 3xx, and the server must close the connection with
    /// a FIN unless connections are kept.
    Http(Arc<[u8]>),
    /// The connection stays open until [`RunningSessions::end`](super::RunningSessions::end).
    Session(SessionContent),
}

/// What a client sends on a connection that stays open.
#[derive(Debug, Clone)]
pub enum SessionContent {
    /// Nothing, as [`Exchange::Close`]: the end is the client's FIN, and the server's must follow.
    Nothing,
    /// The head of an HTTP/1.1 request with `Transfer-Encoding: chunked`, and then a byte of its body every second. At the end of the body
    /// the server must reply as for [`Exchange::Http`].
    Request(Arc<[u8]>),
}

/// How the connections of a load are made and used.
#[derive(Clone)]
pub(super) struct ConnectionOptions {
    pub(super) exchange: Exchange,
    /// `None`: plain text.
    pub(super) tls: Option<Tls>,
    /// A PROXY header comes first.
    pub(super) proxy_protocol: bool,
    /// The end of a reply ends the exchange, and the connection stays open for the next one.
    pub(super) keep_alive: bool,
}
