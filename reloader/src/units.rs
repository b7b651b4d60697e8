//! Converts durations to microseconds and formats them for reports. The load generator and `prove` share it.

use std::time::Duration;

/// The duration in microseconds; `u64::MAX` where it does not fit.
pub(crate) fn to_micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Formats microseconds with a unit. A shorter time gets more digits: `0.34 ms`, `12 ms`, `1.2 s`.
pub(crate) fn format_micros(micros: u64) -> String {
    match micros {
        0..10_000 => format!("{:.2} ms", micros as f64 / 1000.0),
        10_000..1_000_000 => format!("{:.0} ms", micros as f64 / 1000.0),
        _ => format!("{:.1} s", micros as f64 / 1_000_000.0),
    }
}

/// Formats a duration as [`format_micros`] does.
pub(crate) fn format_duration(duration: Duration) -> String {
    format_micros(to_micros(duration))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shorter_times_get_more_digits() {
        assert_eq!([340, 12_400, 1_250_000].map(format_micros), ["0.34 ms", "12 ms", "1.2 s"]);
    }
}
