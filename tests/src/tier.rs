//! How much of a test the run asks for: `cargo xtask test` says it in the environment.

/// The variable, and its value in a run of everything.
pub const VARIABLE: &str = "RELOADER_TEST_TIER";

/// Its value where every loop is run in full.
pub const ALL: &str = "all";

/// Rounds of a loop that shows the same in each: in full for a release, a quarter of them before a change lands. Only for
/// loops in which a round more makes a rare fault more likely to be seen, and nothing else.
pub fn rounds<N: From<u8> + Copy + Ord + std::ops::Div<Output = N>>(full: N) -> N {
    if is_all() { full } else { quarter(full) }
}

/// Numbers up to `full` for a loop that does something a little later in each round: all of them, or every fourth.
pub fn moments(full: u64) -> impl Iterator<Item = u64> {
    (0..full).step_by(if is_all() { 1 } else { 4 })
}

fn quarter<N: From<u8> + Copy + Ord + std::ops::Div<Output = N>>(full: N) -> N {
    (full / N::from(4)).max(N::from(1))
}

/// Whether everything is asked for.
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
