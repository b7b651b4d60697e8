//! Collects the proofs of a run: rung, kind of server, kernel and init system of every proven receipt that a test has seen.

use std::collections::BTreeSet;

use reloader_tests::proofs::PROOF;

/// The distinct proofs.
#[derive(Default)]
pub(super) struct Proofs(BTreeSet<String>);

impl Proofs {
    /// Adds the proofs that a test has printed.
    pub(super) fn read(&mut self, output: &str) {
        let found = output.lines().filter_map(|line| line.split_once(PROOF));
        self.0.extend(found.map(|(_, proof)| proof.trim_end().to_owned()));
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.0.iter().cloned().collect()
    }

    /// The number of proofs, and those of the previous run that are missing.
    pub(super) fn text(&self, before: Option<&[String]>) -> String {
        let mut text = format!("\n{} distinct proofs (rung, kind, kernel, init system)\n", self.0.len());
        let missing: Vec<&String> =
            before.unwrap_or_default().iter().filter(|proof| !self.0.contains(*proof)).collect();
        if !missing.is_empty() {
            text += "proven in the previous run, but not in this one:\n";
            missing.iter().for_each(|proof| text += &format!("  {proof}\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_proofs_are_named() {
        let mut proofs = Proofs::default();
        proofs.read(&format!("words\n{PROOF}passed haproxy 6.1 none\ntest x ... {PROOF}passed haproxy 6.1 none\n"));
        assert_eq!(proofs.lines(), ["passed haproxy 6.1 none"]);
        let text = proofs.text(Some(&["passed haproxy 6.1 none".into(), "steered haproxy 6.1 none".into()]));
        assert!(text.contains("1 distinct") && text.ends_with("this one:\n  steered haproxy 6.1 none\n"), "{text}");
    }
}
