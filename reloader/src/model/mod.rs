//! Plain data that every room shares: listeners, endpoints, and the metadata that travels with a passed socket.

pub mod listener;
mod socket_metadata;

pub use socket_metadata::SocketMetadata;
