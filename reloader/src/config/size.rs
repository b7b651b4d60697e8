//! Reads amounts of memory: "16MiB".

use serde::{Deserialize, Deserializer, de::Error};

/// An amount of memory in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size(pub(super) u32);

/// The smallest amount. It has room for about thirty SYNs.
const SMALLEST: u64 = 4 << 10;
/// The largest amount: one gibibyte, the size of the largest BPF ring buffer that all kernels accept.
const LARGEST: u64 = 1 << 30;

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
        parse(&String::deserialize(deserializer)?).map(Size).map_err(D::Error::custom)
    }
}

fn parse(text: &str) -> Result<u32, String> {
    let wrong = || format!("`{text}` is not a size: write a number with its unit, such as \"512KiB\" or \"16MiB\"");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim() {
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return Err(wrong()),
    };
    let bytes = number.parse::<u64>().map_err(|_| wrong())?.checked_mul(1 << shift).ok_or_else(wrong)?;
    if !(SMALLEST..=LARGEST).contains(&bytes) {
        return Err(format!("`{text}` is out of range: from \"4KiB\" to \"1GiB\""));
    }
    Ok(bytes as u32)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_size_needs_a_unit_and_lies_in_the_range() {
        assert_eq!(parse("16MiB"), Ok(16 << 20));
        assert_eq!(parse("4 KiB"), Ok(4 << 10));
        for wrong in ["16", "16MB", "MiB", "-1MiB", "3KiB", "2GiB", "99999999999999999999GiB"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
