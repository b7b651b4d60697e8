//! Durations as the configuration writes them: "250ms", "5s", and the words beside them.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error};

/// A duration such as "250ms".
#[derive(Debug, Clone, Copy)]
pub(super) struct Span(pub(super) Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        parse(&String::deserialize(deserializer)?).map(Span).map_err(D::Error::custom)
    }
}

/// A moment so far ahead can still be told on every clock.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Reads a duration.
///
/// # Errors
/// A sentence.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time > LONGEST => Err(format!("`{text}` is longer than a hundred years")),
        Ok(time) => Ok(time),
        Err(_) => Err(format!("`{text}` is no duration: write a number with its unit, such as \"250ms\" or \"5s\"")),
    }
}

/// A duration, or no limit at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Never.
    Never,
    /// After this time.
    After(Duration),
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Limit::Never => f.write_str("never"),
            Limit::After(limit) => humantime::format_duration(*limit).fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Limit, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "never" => Ok(Limit::Never),
            text => {
                parse(text).map(Limit::After).map_err(|message| D::Error::custom(format!("{message}, or \"never\"")))
            }
        }
    }
}

/// A duration, or the daemon's own reckoning.
#[derive(Debug, Clone, Copy)]
pub(super) struct OrAuto(pub(super) Option<Duration>);

impl<'de> Deserialize<'de> for OrAuto {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<OrAuto, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "auto" => Ok(OrAuto(None)),
            text => parse(text)
                .map(|time| OrAuto(Some(time)))
                .map_err(|message| D::Error::custom(format!("{message}, or \"auto\""))),
        }
    }
}

/// What HAProxy is given as `close-spread-time`, in HAProxy's notation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpreadTime {
    /// Nothing is given.
    Off,
    /// This is given where the version knows it and the user set none.
    Given(String),
}

impl SpreadTime {
    /// The value for HAProxy's configuration.
    pub fn value(&self) -> Option<&str> {
        match self {
            SpreadTime::Off => None,
            SpreadTime::Given(value) => Some(value),
        }
    }
}

impl<'de> Deserialize<'de> for SpreadTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SpreadTime, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "off" => Ok(SpreadTime::Off),
            text => match parse(text) {
                // HAProxy knows fewer units than we do: say it in milliseconds unless it is already HAProxy's own way.
                Ok(_) if text.chars().all(|c| c.is_ascii_digit() || matches!(c, 's' | 'm')) => {
                    Ok(SpreadTime::Given(text.into()))
                }
                Ok(time) => Ok(SpreadTime::Given(format!("{}ms", time.as_millis()))),
                Err(message) => Err(D::Error::custom(format!("{message}, or \"off\""))),
            },
        }
    }
}
