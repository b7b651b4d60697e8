use std::time::Duration;

use roxmltree::{Document, ParsingOptions};

use super::*;
use crate::load::Failure;
use crate::prove::reload_method::ReloadResult;
use crate::prove::samples;
use crate::prove::verdict::verdict;

fn page(findings: &Findings) -> String {
    html(findings, &verdict(findings))
}

fn parsed(text: &str) -> Document<'_> {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    Document::parse_with_options(text, options).unwrap_or_else(|error| panic!("{error} in:\n{text}"))
}

fn lossy() -> Findings {
    samples::findings(12_000, &[(1001, Failure::Refused), (1002, Failure::Refused), (5003, Failure::Timeout)], 10)
}

fn with_class<'a>(document: &'a Document<'a>, class: &str) -> Vec<roxmltree::Node<'a, 'a>> {
    let has_class = |node: &roxmltree::Node| {
        node.attribute("class").is_some_and(|classes| classes.split(' ').any(|word| word == class))
    };
    document.descendants().filter(has_class).collect()
}

#[test]
fn report_is_well_formed_for_all_findings() {
    for findings in [
        lossy(),
        samples::findings(1, &[], 1),
        samples::findings(0, &[(10, Failure::Refused)], 1),
        samples::findings(0, &[], 0),
        samples::findings(100, &[(3, Failure::Local(24))], 2),
        samples::findings(1_000_000, &[], 300),
    ] {
        parsed(&page(&findings));
    }
}

#[test]
fn text_from_the_operator_stays_text() {
    let nasty = "\"><script>alert(1)</script>&'\u{7}";
    let mut findings = lossy();
    findings.settings.target = nasty.into();
    findings.settings.command = Some(nasty.into());
    findings.settings.command_line = nasty.into();
    findings.kernel = Some(nasty.into());
    findings.address = nasty.into();
    findings.settings.doubt = Some(nasty.into());
    findings.reloads[9].report.result = ReloadResult::Failed;
    findings.reloads[9].report.reason = Some(nasty.into());
    let text = page(&findings);
    let document = parsed(&text);
    assert_eq!(document.descendants().filter(|node| node.has_tag_name("script")).count(), 0);
    let shown =
        document.descendants().filter(|node| node.is_text() && node.text().unwrap().contains("alert(1)")).count();
    assert!(shown >= 6, "{shown}");
}

#[test]
fn report_needs_no_network() {
    let text = page(&lossy());
    let document = parsed(&text);
    for node in document.descendants() {
        for attribute in ["href", "src", "srcset", "data", "action", "poster"] {
            assert_eq!(node.attribute(attribute), None, "{:?}", node.tag_name());
        }
    }
    let style = document.descendants().find(|node| node.has_tag_name("style")).unwrap().text().unwrap();
    assert!(!style.contains("url(") && !style.contains("@import") && !style.contains("@font-face"));
    assert!(text.contains("default-src 'none'") || text.contains("default-src &#39;none&#39;"));
}

#[test]
fn reloads_and_losses_are_drawn_at_their_times() {
    let findings = lossy();
    let text = page(&findings);
    let document = parsed(&text);
    // Once for a desktop, once for a phone.
    let bands: Vec<_> = with_class(&document, "reload").into_iter().filter(|node| node.has_tag_name("rect")).collect();
    assert_eq!(bands.len(), 2 * 10);
    let bars: Vec<_> = with_class(&document, "loss").into_iter().filter(|node| node.has_tag_name("rect")).collect();
    assert_eq!(bars.len(), 2 * 2, "two lost in one bucket, one in another");
    let x = |node: &roxmltree::Node| node.attribute("x").unwrap().parse::<f64>().unwrap();
    assert!((x(&bars[0]) - x(&bands[0])).abs() < 3.0, "the first loss is drawn at the first reload");
    let title = bands[0].descendants().find(|node| node.has_tag_name("title")).unwrap().text().unwrap();
    assert_eq!(title, "reload 1 at 1.0 s, done, took 40 ms, 2 lost");
    let none = samples::findings(1000, &[], 1);
    assert!(page(&none).contains("nothing was lost"));
}

#[test]
fn losses_that_were_not_all_kept_are_drawn_at_no_reload() {
    let many: Vec<(u64, Failure)> = (0..20_001).map(|millis| (1000 + millis, Failure::Refused)).collect();
    let text = page(&samples::findings(0, &many, 25));
    assert!(!text.contains(", 0 lost") && !text.contains("reload losing"), "the losses are assigned to no reload");
    assert!(text.contains("reload 25 at 25.0 s, done, took 40 ms<"));
}

#[test]
fn nothing_is_drawn_outside_its_field() {
    let mut findings = lossy();
    findings.reloads[9].took = Duration::from_secs(100);
    let text = page(&findings);
    for svg in parsed(&text).descendants().filter(|node| node.has_tag_name("svg")) {
        let size: Vec<f64> = svg.attribute("viewBox").unwrap().split(' ').map(|word| word.parse().unwrap()).collect();
        for node in svg.descendants() {
            for (name, most) in [("x", size[2]), ("cx", size[2]), ("x2", size[2]), ("y", size[3]), ("cy", size[3])] {
                let Some(value) = node.attribute(name).map(|value| value.parse::<f64>().unwrap()) else { continue };
                assert!((0.0..=most).contains(&value), "{name}={value} in {size:?}");
            }
        }
    }
}

#[test]
fn size_of_the_file_does_not_depend_on_the_number_of_connections() {
    let (small, large) = (page(&samples::findings(20_000, &[], 10)), page(&samples::findings(1_000_000, &[], 10)));
    assert!(large.len() < 2 * small.len() && large.len() < 300_000, "{} and {}", small.len(), large.len());
}

#[test]
fn unmeasured_run_shows_no_figures() {
    let text = page(&samples::findings(100, &[(3, Failure::Local(24))], 2));
    let document = parsed(&text);
    assert_eq!(document.descendants().filter(|node| node.has_tag_name("svg")).count(), 0);
    assert_eq!(document.descendants().filter(|node| node.has_tag_name("table")).count(), 0);
}
