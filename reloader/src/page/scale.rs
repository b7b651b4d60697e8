//! Places values on a logarithmic scale of a chart.

use std::ops::RangeInclusive;

/// The smallest number of decades on a scale. On a scale with fewer decades, noise would look like a large change.
const MIN_DECADES: f64 = 2.0;

/// A logarithmic scale of microseconds, from a whole decade to a whole decade.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogScale {
    /// Decimal logarithms of the ends of the scale.
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl LogScale {
    /// A scale that covers the range `micros`. Its lower end is at the coordinate `from`, its upper end at `to`. It spans at least two
    /// decades.
    pub fn new(micros: RangeInclusive<u64>, from: f64, to: f64) -> LogScale {
        let high = ((*micros.end()).max(1) as f64).log10().ceil();
        let low = ((*micros.start()).max(1) as f64).log10().floor().min(high - MIN_DECADES).max(0.0);
        LogScale { low, high: high.max(low + MIN_DECADES), from, to }
    }

    /// The coordinate of a value in microseconds. A value outside the scale has the coordinate of the nearer end.
    pub fn position(&self, micros: u64) -> f64 {
        let exponent = (micros.max(1) as f64).log10().clamp(self.low, self.high);
        self.from + (self.to - self.from) * (exponent - self.low) / (self.high - self.low)
    }

    /// The powers of ten on the scale, in microseconds, with both ends.
    pub fn ticks(&self) -> Vec<u64> {
        (self.low as u32..=self.high as u32).map(|exponent| 10_u64.pow(exponent)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scale_encloses_its_values_in_whole_decades() {
        let scale = LogScale::new(300..=45_000, 100.0, 0.0);
        assert_eq!(scale.ticks(), [100, 1_000, 10_000, 100_000]);
        assert_eq!((scale.position(100), scale.position(100_000), scale.position(1)), (100.0, 0.0, 100.0));
        assert!(scale.position(1_000) > scale.position(2_000));
        assert!(LogScale::new(500..=600, 1.0, 0.0).ticks().len() >= 3);
        assert!(LogScale::new(0..=0, 1.0, 0.0).ticks().len() >= 3);
    }
}
