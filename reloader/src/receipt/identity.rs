//! Names and dates a receipt.

use std::time::{SystemTime, UNIX_EPOCH};

/// A name for a receipt: unique on this machine, and sorting by time.
pub(crate) fn receipt_id(at: SystemTime) -> String {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let micros = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    format!("{micros:014x}-{:x}-{number:x}", std::process::id())
}

/// A time as receipts write it.
pub(crate) fn rfc3339(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_time_and_are_unique() {
        let at = SystemTime::now();
        let [one, two] = [receipt_id(at), receipt_id(at)];
        assert_ne!(one, two);
        assert!(receipt_id(at + std::time::Duration::from_secs(1)) > two);
    }
}
