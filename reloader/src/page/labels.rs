//! Formats the labels of charts: times and counts.

/// The label of a decade on a latency axis: whole units of time.
pub fn decade_label(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{} ms", micros as f64 / 1_000.0),
        1_000..1_000_000 => format!("{} ms", micros / 1_000),
        _ => format!("{} s", micros / 1_000_000),
    }
}

/// The step in seconds between the labels of an axis that is `seconds` long. It is the smallest step with at most `max_labels` labels.
/// Short steps are 1, 2 or 5 times a power of ten. Steps from half a minute on divide a minute, an hour or a day.
pub fn axis_step(seconds: f64, max_labels: usize) -> f64 {
    let steps = [
        0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0,
        21_600.0, 86_400.0,
    ];
    steps.into_iter().find(|step| seconds / step <= max_labels as f64).unwrap_or(seconds / max_labels as f64)
}

/// The label of a time on an axis with this step, both in seconds.
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

/// A count with commas between the thousands.
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
    fn times_and_counts_are_formatted_for_people() {
        assert_eq!([100, 10_000, 1_000_000].map(decade_label), ["0.1 ms", "10 ms", "1 s"]);
        assert_eq!((axis_step(12.0, 8), axis_step(300.0, 8), axis_step(0.5, 8)), (2.0, 60.0, 0.1));
        assert_eq!((time_label(0.5, 0.1), time_label(90.0, 30.0)), ("0.5 s".into(), "1:30".into()));
        assert_eq!((time_label(120.0, 60.0), time_label(150.0, 30.0)), ("2 min".into(), "2:30".into()));
        assert_eq!(time_label(5400.0, 1800.0), "1:30 h");
        assert_eq!([7, 1_000, 1_234_567].map(thousands), ["7", "1,000", "1,234,567"]);
    }
}
