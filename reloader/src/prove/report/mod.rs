//! The HTML report: one file that needs no other.

mod canvas;
mod curve;
mod tables;
mod timeline;

use super::findings::Findings;
use super::sentences::{
    exclusions, late_sentence, losses_by_class, receipts_sentence, schedule_sentence, sessions_sentence,
    verdict_sentence,
};
use super::verdict::Verdict;
use crate::page::{self, Element, element, thousands};
use crate::units::format_micros;

/// The text of the file.
pub fn html(findings: &Findings, verdict: &Verdict) -> String {
    let title = format!("{}: {}", verdict.word(), findings.settings.target);
    page::document(&title, &[page::STYLE], body(findings, verdict))
}

fn body(findings: &Findings, verdict: &Verdict) -> Element {
    let mut main = element("main").child(header(findings, verdict));
    if !matches!(verdict, Verdict::Unmeasured(_)) {
        main = main
            .child(tiles(findings))
            .child(figure("Latency over time", timeline::timeline(findings), legend(findings)))
            .child(figure("Latency by percentile", curve::curve(findings), element("span").text(
                "The latency of all that were served, from the time at which each was due to its end. The axis gives rare latencies as much room as common ones.",
            )))
            .child(
                element("section")
                    .class("tables")
                    .child(section(&capitalised(findings.settings.protocol.unit()), tables::counts(findings)))
                    .child(section("Latency", tables::percentiles(findings))),
            )
            .child(section("Reloads", element("div").class("scroll").child(tables::reloads(findings))));
    }
    element("body").child(main.child(section("This run", facts(findings))))
}

fn header(findings: &Findings, verdict: &Verdict) -> Element {
    let sentence = verdict_sentence(findings, verdict);
    let mut header = element("header").child(element("p").class("target").text(&findings.settings.target)).child(
        element("h1")
            .child(element("strong").class(&format!("verdict {}", verdict.word())).text(verdict.word()))
            .text(format!(" {}", capitalised(&sentence))),
    );
    for note in notes(findings, verdict) {
        header = header.child(element("p").class("note").text(note));
    }
    header
}

fn notes(findings: &Findings, verdict: &Verdict) -> Vec<String> {
    let mut notes: Vec<String> =
        findings.settings.doubt.iter().map(|doubt| format!("{}.", capitalised(doubt))).collect();
    if *verdict == Verdict::Lost && findings.tally.lost() > 0 {
        notes.push(format!("{}.", capitalised(&losses_by_class(findings))));
    }
    if !matches!(verdict, Verdict::Unmeasured(_)) {
        let sessions = findings.sessions.as_ref();
        notes.extend(sessions.map(|sessions| format!("Held: {}.", sessions_sentence(sessions, &findings.reloads))));
        notes.extend(receipts_sentence(findings).map(|words| format!("The receipts: {words}.")));
        notes.extend(exclusions(findings).iter().map(|words| format!("{}.", capitalised(words))));
    }
    if findings.tally.late > 0 && !matches!(verdict, Verdict::Unmeasured(_)) {
        notes.push(format!("{}.", capitalised(&late_sentence(findings))));
    }
    if let Some(signal) = findings.cut_short {
        notes.push(format!(
            "Cut short by signal {signal}, after {} of {} reloads.",
            findings.reloads.len(),
            findings.settings.reloads
        ));
    }
    notes
}

fn tiles(findings: &Findings) -> Element {
    let total = &findings.tally.total;
    let (lost, late) = (findings.tally.lost(), findings.tally.late);
    let at = |share| match total.ok {
        0 => "–".to_owned(),
        _ => format_micros(total.latency.value_at_quantile(share)),
    };
    let tile = |name: &str, value: String, class: &str| {
        element("div").class(&format!("tile {class}")).child(element("dt").text(name)).child(element("dd").text(value))
    };
    let held = findings.sessions.as_ref().map(|sessions| {
        let alive = sessions.count() - sessions.lost_count();
        tile("held", format!("{alive}/{}", sessions.count()), if sessions.lost_count() > 0 { "bad" } else { "good" })
    });
    element("dl")
        .class("tiles")
        .children([
            tile("lost", thousands(lost), if lost > 0 { "bad" } else { "good" }),
            tile("late", thousands(late), if late > 0 { "late" } else { "" }),
            tile(findings.settings.protocol.unit(), thousands(findings.tally.tried()), ""),
            tile("reloads", thousands(findings.reloads.len() as u64), ""),
            tile("median", at(0.5), ""),
            tile("99 %", at(0.99), ""),
            tile("slowest", at(1.0), ""),
        ])
        .children(held)
}

fn figure(title: &str, drawings: Vec<Element>, caption: Element) -> Element {
    element("figure").child(element("h2").text(title)).children(drawings).child(element("figcaption").child(caption))
}

fn legend(findings: &Findings) -> Element {
    let key = |class: &str, text: &str| element("li").child(element("i").class(class)).text(text);
    let mut keys = vec![key("p50", "median"), key("p99", "99 %"), key("slowest", "slowest"), key("reload", "reload")];
    if findings.tally.late > 0 {
        keys.push(key("late", "served late"));
    }
    if findings.tally.lost() > 0 {
        keys.push(key("loss", "lost"));
    }
    element("ul").class("legend").children(keys)
}

fn section(title: &str, content: Element) -> Element {
    element("section").child(element("h2").text(title)).child(content)
}

fn facts(findings: &Findings) -> Element {
    let settings = &findings.settings;
    let by = settings.command.clone().unwrap_or_else(|| "the daemon".into());
    let facts = [
        ("Target", format!("{} ({})", settings.target, findings.address)),
        ("Load", format!("{} at {}/s for {:.1} s", settings.protocol, settings.rate, findings.duration.as_secs_f64())),
        ("Reloaded by", by),
        ("Schedule", schedule_sentence(findings)),
        ("Started", findings.began_at.clone()),
        ("Kernel", findings.kernel.clone().unwrap_or_else(|| "unknown".into())),
        ("Command", settings.command_line.clone()),
    ];
    element("dl")
        .class("facts")
        .children(facts.into_iter().flat_map(|(name, value)| [element("dt").text(name), element("dd").text(value)]))
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
