//! Writes what was measured into README.md and docs/: each page has a part of its own between two marks.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::document::Document;
use super::{plot, table};

const BEGIN: &str = "<!-- Written by `cargo xtask bench --readme`, from docs/bench.json. -->\n";
const END: &str = "<!-- End of the generated part. -->\n";

/// A page with a part that is written here.
struct Page {
    path: &'static str,
    part: fn(&Document) -> String,
}

const PAGES: [Page; 3] = [
    Page { path: "README.md", part: summary },
    Page { path: "docs/faq.md", part: costs },
    Page { path: "docs/reference/measurements.md", part: everything },
];

/// Writes the pages below `repository`, and the files that they show or were made from.
///
/// # Errors
/// If a page has no marks, or a file cannot be read or written.
pub(super) fn write(repository: &Path, document: &Document) -> Result<()> {
    for page in PAGES {
        let path = repository.join(page.path);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        super::write(&path, &page.replaced(&text, document)?)?;
    }
    super::write(&repository.join("docs/bench.json"), &document.json()?)?;
    match plot::svg(document) {
        Some(svg) => super::write(&repository.join("docs/bench.svg"), &svg),
        None => Ok(()),
    }
}

impl Page {
    /// The text of the page with the part between the marks replaced.
    fn replaced(&self, text: &str, document: &Document) -> Result<String> {
        let place = || {
            let (before, rest) = text.split_once(BEGIN)?;
            let (_, after) = rest.split_once(END)?;
            Some(format!("{before}{BEGIN}{}{END}{after}", (self.part)(document)))
        };
        place().with_context(|| format!("{} must contain these two lines:\n{BEGIN}{END}", self.path))
    }
}

/// For README.md: what was lost, and the plot.
fn summary(document: &Document) -> String {
    let columns = ["connections", "lost", "late per million", "s per reload"];
    let mut text = format!("{}\n\n{}", table::about_load(document), table::markdown(document, &columns));
    let verdicts = table::verdicts(document);
    if !verdicts.is_empty() {
        text += "\n![The worst and the best way around a reload](docs/bench.svg)\n\n";
        verdicts.iter().for_each(|said| text += &format!("- {said}\n"));
    }
    text
}

/// For docs/faq.md.
fn costs(document: &Document) -> String {
    table::markdown(document, &["p50", "p99.9", "CPU s per million", "s per reload"])
}

/// For docs/reference/measurements.md: every figure, with what is to be said about it.
fn everything(document: &Document) -> String {
    let mut text = format!("{}\n\n{}", table::about(document), table::markdown(document, &table::HEAD[1..]));
    let remarks = table::remarks(document);
    for (number, remark) in remarks.iter().enumerate() {
        text += &format!("\n({}) {remark}\n", number + 1);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::document::tests::sample;

    #[test]
    fn only_text_between_the_marks_is_replaced() {
        let page = Page { path: "README.md", part: |_| "new\n".into() };
        let text = format!("before\n{BEGIN}old\n{END}after\n");
        assert_eq!(page.replaced(&text, &sample()).unwrap(), format!("before\n{BEGIN}new\n{END}after\n"));
        assert!(page.replaced("nothing", &sample()).unwrap_err().to_string().contains(BEGIN));
    }

    #[test]
    fn plot_is_shown_only_if_it_exists() {
        let mut sample = sample();
        assert!(summary(&sample).contains("(docs/bench.svg)"));
        sample.rows.truncate(1);
        assert!(!summary(&sample).contains("(docs/bench.svg)"));
    }

    #[test]
    fn each_page_has_the_columns_that_it_names() {
        let head = |text: String| text.lines().find(|line| line.starts_with('|')).unwrap().to_owned();
        assert_eq!(head(costs(&sample())), "| | p50 | p99.9 | CPU s per million | s per reload |");
        assert_eq!(head(everything(&sample())).matches('|').count(), table::HEAD.len() + 1);
    }

    /// The figures in the documents are the measured ones, without edits by hand.
    #[test]
    fn documents_have_the_measured_figures() {
        let repository = crate::repository();
        let read = |name: &str| fs::read_to_string(repository.join(name)).unwrap();
        let document = Document::read(&repository.join("docs/bench.json")).unwrap();
        for page in PAGES {
            let text = read(page.path);
            let wanted = page.replaced(&text, &document).unwrap();
            assert_eq!(text, wanted, "{}: run `cargo xtask bench --from docs/bench.json --readme`", page.path);
        }
        if let Some(svg) = plot::svg(&document) {
            assert_eq!(read("docs/bench.svg"), svg);
        }
    }
}
