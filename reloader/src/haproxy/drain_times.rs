//! The times by which HAProxy itself bounds its end after it was told to drain. Pure.

use std::time::Duration;

/// What the configuration of a HAProxy says about its end. All is `None` for other servers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DrainTimes {
    /// `grace`, the longest: how long it goes on accepting connections.
    pub grace: Option<Duration>,
    /// `hard-stop-after`: when it closes what is left of its connections, counted from the end of `grace` (`do_soft_stop_now`).
    pub hard_stop_after: Option<Duration>,
}

impl DrainTimes {
    /// The time from its retirement to its hard stop.
    pub fn until_hard_stop(self) -> Option<Duration> {
        Some(self.grace.unwrap_or_default().saturating_add(self.hard_stop_after?))
    }
}

/// Whether a line of HAProxy's log says that it stops hard (`hard_stop` in HAProxy's `proxy.c`).
pub fn says_hard_stop(line: &str) -> bool {
    line.contains("soft-stop running for too long, performing a hard-stop")
}

/// Reads a time as HAProxy writes it: a number with a unit, of which `ms` is the default (`parse_time_err` in HAProxy's `tools.c`). `None`
/// where only HAProxy can read it, as with an environment variable.
pub fn time(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let seconds = |factor: u64| number.checked_mul(factor).map(Duration::from_secs);
    match unit {
        "us" => Some(Duration::from_micros(number)),
        "ms" | "" => Some(Duration::from_millis(number)),
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3600),
        "d" => seconds(86400),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_unit_is_read() {
        let found = ["3s", "500", "500ms", "2m", "1h", "1d", "7us"].map(|text| time(text).unwrap().as_micros());
        assert_eq!(found, [3_000_000, 500_000, 500_000, 120_000_000, 3_600_000_000, 86_400_000_000, 7]);
        assert_eq!([time("${LIMIT}"), time("3 s"), time("s"), time("")], [None; 4]);
    }
}
