//! Reads durations: "250ms", "5s", and the words that stand in their place.

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

/// A hundred years. Every clock can still represent a moment so far ahead.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Reads a duration.
///
/// # Errors
/// The text is not a duration, or the duration is too long. The message is a sentence.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time > LONGEST => Err(format!("`{text}` is longer than a hundred years")),
        Ok(time) => Ok(time),
        Err(_) => Err(format!("`{text}` is not a duration: write a number with its unit, such as \"250ms\" or \"5s\"")),
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
        Ok(time_or("never", deserializer)?.map_or(Limit::Never, Limit::After))
    }
}

/// Reads a duration, or this word, which is `None`.
fn time_or<'de, D: Deserializer<'de>>(word: &str, deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text == word {
        return Ok(None);
    }
    parse(&text).map(Some).map_err(|message| D::Error::custom(format!("{message}, or \"{word}\"")))
}

/// A duration, or `"auto"`: the daemon derives it.
#[derive(Debug, Clone, Copy)]
pub(super) struct OrAuto(pub(super) Option<Duration>);

impl<'de> Deserialize<'de> for OrAuto {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<OrAuto, D::Error> {
        time_or("auto", deserializer).map(OrAuto)
    }
}

/// A duration, or `"off"`.
#[derive(Debug, Clone, Copy)]
pub(super) struct OrOff(pub(super) Option<Duration>);

impl<'de> Deserialize<'de> for OrOff {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<OrOff, D::Error> {
        time_or("off", deserializer).map(OrOff)
    }
}

/// The `close-spread-time` that the daemon gives to HAProxy, in HAProxy's notation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpreadTime {
    /// The daemon gives none.
    Off,
    /// The daemon gives this value, if this version of HAProxy knows the setting and the user has set none.
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
            "infinite" => Ok(SpreadTime::Given("infinite".into())),
            text => match parse(text) {
                // HAProxy knows fewer units. A value that is not in its notation is written in milliseconds.
                Ok(_) if text.chars().all(|c| c.is_ascii_digit() || matches!(c, 's' | 'm')) => {
                    Ok(SpreadTime::Given(text.into()))
                }
                Ok(time) => Ok(SpreadTime::Given(format!("{}ms", time.as_millis()))),
                Err(message) => Err(D::Error::custom(format!("{message}, or \"infinite\", or \"off\""))),
            },
        }
    }
}
