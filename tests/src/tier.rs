//! Says how much of each loop a run asks for, from the variable that `cargo xtask test` sets.

/// The environment variable.
pub const VARIABLE: &str = "RELOADER_TEST_TIER";

/// The value of the variable with which every loop is run in full.
pub const ALL: &str = "all";

/// The number of rounds of a loop whose rounds all show the same: the full number for a release, a quarter before a
/// change lands. Only for loops in which further rounds make a rare fault more likely to be seen, and nothing else.
pub fn rounds<N: From<u8> + Copy + Ord + std::ops::Div<Output = N>>(full: N) -> N {
    if is_all() { full } else { quarter(full) }
}

/// Numbers below `full`, for a loop that does something a little later in each round: all of them, or every fourth.
pub fn moments(full: u64) -> impl Iterator<Item = u64> {
    (0..full).step_by(if is_all() { 1 } else { 4 })
}

fn quarter<N: From<u8> + Copy + Ord + std::ops::Div<Output = N>>(full: N) -> N {
    (full / N::from(4)).max(N::from(1))
}

/// Whether the run asks for everything.
pub fn is_all() -> bool {
    std::env::var(VARIABLE).is_ok_and(|tier| tier == ALL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_rounds_is_at_least_one() {
        assert_eq!((quarter(20_usize), quarter(3_usize), quarter(1_u32)), (5, 1, 1));
    }
}
