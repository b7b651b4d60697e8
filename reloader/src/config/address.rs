//! Reads the addresses of `listen`.

use serde::de::Error;
use serde::{Deserialize, Deserializer};

use crate::model::listener::Address;

/// Reads a list of addresses.
///
/// # Errors
/// If one of the words is not an address.
pub(super) fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Address>, D::Error> {
    let words = Vec::<String>::deserialize(deserializer)?;
    words.iter().map(|word| address(word).map_err(D::Error::custom)).collect()
}

/// `0.0.0.0:8080`, `[::]:8080`, `/path` or `@abstract`.
fn address(word: &str) -> Result<Address, String> {
    if word.starts_with('/') {
        return Ok(Address::Unix(word.into()));
    }
    if let Some(name) = word.strip_prefix('@') {
        return Ok(Address::Abstract(name.as_bytes().to_vec()));
    }
    let inet = word.parse().map(Address::Inet);
    inet.map_err(|_| {
        format!(
            "`{word}` is not an address: write \"0.0.0.0:8080\", \"[::]:8080\", the path of a unix socket, or \"@NAME\""
        )
    })
}
