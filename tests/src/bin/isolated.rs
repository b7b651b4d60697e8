//! Runs a test in its own namespaces: `isolated LIMIT -- PROGRAM [ARGUMENT…]`, with the limit in seconds. Ends with the
//! test's exit status, or with 124 if the test was killed at its limit.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use reloader_tests::isolation::{INNER, Run, run_inner};

const USAGE: &str = "usage: isolated LIMIT -- PROGRAM [ARGUMENT…]";

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [limit, separator, command @ ..] = words.as_slice() else {
        bail!(USAGE);
    };
    if separator != "--" || command.is_empty() {
        bail!(USAGE);
    }
    let status = if limit == INNER {
        run_inner(command)?
    } else {
        let limit = limit.parse().with_context(|| format!("`{limit}` is not a number of seconds"))?;
        Run { limit: Duration::from_secs(limit), words: command.to_vec() }.run()?
    };
    std::process::exit(status);
}
