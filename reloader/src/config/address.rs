//! Reads the addresses of `listen`.

use serde::de::Error;
use serde::{Deserialize, Deserializer};

use crate::model::listener::{Address, Endpoint, SocketType};

/// Reads a list of addresses.
///
/// # Errors
/// If one of the words is not an address.
pub(super) fn endpoints<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Endpoint>, D::Error> {
    let words = Vec::<String>::deserialize(deserializer)?;
    words.iter().map(|word| endpoint(word).map_err(D::Error::custom)).collect()
}

/// `0.0.0.0:8080`, `[::]:8080`, `udp:0.0.0.0:53`, `/path` or `@abstract`.
fn endpoint(word: &str) -> Result<Endpoint, String> {
    if word.starts_with('/') {
        return Ok(Endpoint::stream(Address::Unix(word.into())));
    }
    if let Some(name) = word.strip_prefix('@') {
        return Ok(Endpoint::stream(Address::Abstract(name.as_bytes().to_vec())));
    }
    let (socket_type, inet) = match word.strip_prefix("udp:") {
        Some(inet) => (SocketType::Datagram, inet),
        None => (SocketType::Stream, word),
    };
    let address = inet.parse().map(Address::Inet).map_err(|_| {
        format!(
            "`{word}` is not an address: write \"0.0.0.0:8080\", \"[::]:8080\", \"udp:0.0.0.0:53\", the path of a unix socket, or \"@NAME\""
        )
    })?;
    Ok(Endpoint { socket_type, ..Endpoint::stream(address) })
}
