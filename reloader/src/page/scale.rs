//! From figures to places on a chart.

/// A logarithmic scale from whole decades to whole decades.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decades {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Decades {
    /// Of microseconds, between two places: `from` for the least. Never less than two decades: a chart of noise looks alarming.
    pub fn of(least: u64, most: u64, from: f64, to: f64) -> Decades {
        let high = (most.max(1) as f64).log10().ceil();
        let low = (least.max(1) as f64).log10().floor().min(high - 2.0).max(0.0);
        Decades { low, high: high.max(low + 2.0), from, to }
    }

    /// Where so many microseconds stand.
    pub fn place(&self, micros: u64) -> f64 {
        let exponent = (micros.max(1) as f64).log10().clamp(self.low, self.high);
        self.from + (self.to - self.from) * (exponent - self.low) / (self.high - self.low)
    }

    /// The decades themselves, in microseconds.
    pub fn ticks(&self) -> Vec<u64> {
        (self.low as u32..=self.high as u32).map(|exponent| 10_u64.pow(exponent)).collect()
    }
}

/// A decade's label: whole units of time.
pub fn decade_label(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{} ms", micros as f64 / 1_000.0),
        1_000..1_000_000 => format!("{} ms", micros / 1_000),
        _ => format!("{} s", micros / 1_000_000),
    }
}

/// A step between labels, of which at most so many are wanted: 1, 2 or 5 of a decade, minutes and hours as clocks have them.
pub fn step(seconds: f64, most: usize) -> f64 {
    let steps = [
        0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0,
        21_600.0, 86_400.0,
    ];
    steps.into_iter().find(|step| seconds / step <= most as f64).unwrap_or(seconds / most as f64)
}

/// A time on the axis.
pub fn time_label(seconds: f64, step: f64) -> String {
    if step < 1.0 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        _ if whole < 60 => format!("{whole} s"),
        (0, minutes, 0) => format!("{minutes} min"),
        (0, minutes, rest) => format!("{minutes}:{rest:02}"),
        (hours, minutes, _) => format!("{hours}:{minutes:02} h"),
    }
}

/// A count with its thousands apart.
pub fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decades_enclose_what_there_is() {
        let scale = Decades::of(300, 45_000, 100.0, 0.0);
        assert_eq!(scale.ticks(), [100, 1_000, 10_000, 100_000]);
        assert_eq!((scale.place(100), scale.place(100_000), scale.place(1)), (100.0, 0.0, 100.0));
        assert!(scale.place(1_000) > scale.place(2_000));
        assert!(Decades::of(500, 600, 1.0, 0.0).ticks().len() >= 3);
        assert!(Decades::of(0, 0, 1.0, 0.0).ticks().len() >= 3);
        assert_eq!([100, 10_000, 1_000_000].map(decade_label), ["0.1 ms", "10 ms", "1 s"]);
    }

    #[test]
    fn labels_are_as_clocks_have_them() {
        assert_eq!((step(12.0, 8), step(300.0, 8), step(0.5, 8)), (2.0, 60.0, 0.1));
        assert_eq!((time_label(0.5, 0.1), time_label(90.0, 30.0)), ("0.5 s".into(), "1:30".into()));
        assert_eq!((time_label(120.0, 60.0), time_label(150.0, 30.0)), ("2 min".into(), "2:30".into()));
        assert_eq!(time_label(5400.0, 1800.0), "1:30 h");
        assert_eq!([7, 1_000, 1_234_567].map(thousands), ["7", "1,000", "1,234,567"]);
    }
}
