/// The rows of the first table below this line of a page, usually a heading, without the table's own heading and rule. Cells are trimmed.
#[track_caller]
pub fn table(page: &str, heading: &str) -> Vec<Vec<String>> {
    let text = super::text(page);
    let (_, below) = text.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("{page} has no {heading:?}"));
    let lines = below.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let rows: Vec<Vec<String>> = lines.skip(2).map(cells).collect();
    assert!(!rows.is_empty(), "{page} has no table below {heading:?}");
    rows
}

fn cells(line: &str) -> Vec<String> {
    line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
}
