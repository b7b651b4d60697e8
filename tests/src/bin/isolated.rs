//! Runs a test in namespaces of its own: `isolated LIMIT -- PROGRAM [ARGUMENT…]`, the limit in seconds. Ends with the test's
//! exit status, 124 if the test was killed at its limit.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use reloader_tests::isolation::{INNER, Run, run_inner};

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [limit, separator, command @ ..] = words.as_slice() else {
        bail!("usage: isolated LIMIT -- PROGRAM [ARGUMENT…]");
    };
    if separator != "--" || command.is_empty() {
        bail!("usage: isolated LIMIT -- PROGRAM [ARGUMENT…]");
    }
    let status = if limit == INNER {
        run_inner(command)?
    } else {
        let limit = limit.parse().with_context(|| format!("`{limit}` is not a number of seconds"))?;
        Run { limit: Duration::from_secs(limit), words: command.to_vec() }.run()?
    };
    std::process::exit(status);
}
