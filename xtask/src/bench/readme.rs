//! Writes the README's part about the benchmark from the measured figures.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::document::Document;
use super::{plot, table};

const BEGIN: &str = "<!-- Written by `cargo xtask bench --readme`, from docs/bench.json. -->\n";
const END: &str = "<!-- End of the generated part. -->\n";

/// Writes README.md, docs/bench.json and docs/bench.svg in `repository`.
pub(super) fn write(repository: &Path, document: &Document) -> Result<()> {
    let readme = repository.join("README.md");
    let text = fs::read_to_string(&readme).with_context(|| readme.display().to_string())?;
    super::write(&readme, &replaced(&text, &section(document))?)?;
    super::write(&repository.join("docs/bench.json"), &document.json()?)?;
    match plot::svg(document) {
        Some(svg) => super::write(&repository.join("docs/bench.svg"), &svg),
        None => Ok(()),
    }
}

/// The README with the part between the marks replaced.
fn replaced(readme: &str, section: &str) -> Result<String> {
    let place = || {
        let (before, rest) = readme.split_once(BEGIN)?;
        let (_, after) = rest.split_once(END)?;
        Some(format!("{before}{BEGIN}{section}{END}{after}"))
    };
    place().with_context(|| format!("README.md must contain these two lines:\n{BEGIN}{END}"))
}

fn section(document: &Document) -> String {
    let mut text = format!("{}\n\n{}\n", table::about(document), table::markdown(document));
    for (number, remark) in table::remarks(document).iter().enumerate() {
        text += &format!("({}) {remark}\n", number + 1);
    }
    let verdicts = table::verdicts(document);
    if verdicts.is_empty() {
        return text;
    }
    text += "\n![The worst and the best way around a reload](docs/bench.svg)\n\n";
    text += "Each plot shows all reloads of a way together, by the time at which a connection was due: above, the slowest connection that \
             was served; below, in red, the share that was lost. The band is as wide as a reload takes.\n\n";
    verdicts.iter().for_each(|verdict| text += &format!("- {verdict}\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::document::tests::sample;

    #[test]
    fn only_text_between_the_marks_is_replaced() {
        let readme = format!("before\n{BEGIN}old\n{END}after\n");
        assert_eq!(replaced(&readme, "new\n").unwrap(), format!("before\n{BEGIN}new\n{END}after\n"));
        assert!(replaced("nothing", "new\n").unwrap_err().to_string().contains(BEGIN));
    }

    #[test]
    fn plot_is_shown_only_if_it_exists() {
        let mut sample = sample();
        assert!(section(&sample).contains("(docs/bench.svg)"));
        sample.rows.truncate(1);
        assert!(!section(&sample).contains("(docs/bench.svg)"));
    }

    /// The figures in the README are the measured ones, without edits by hand.
    #[test]
    fn readme_has_the_measured_figures() {
        let repository = crate::repository();
        let read = |name: &str| fs::read_to_string(repository.join(name)).unwrap();
        let (file, readme) = (repository.join("docs/bench.json"), read("README.md"));
        if !file.exists() {
            return assert_eq!(
                readme,
                replaced(&readme, "").unwrap(),
                "the README has figures without their docs/bench.json"
            );
        }
        let document = Document::read(&file).unwrap();
        assert_eq!(
            readme,
            replaced(&readme, &section(&document)).unwrap(),
            "run `cargo xtask bench --from docs/bench.json --readme`"
        );
        if let Some(svg) = plot::svg(&document) {
            assert_eq!(read("docs/bench.svg"), svg);
        }
    }
}
