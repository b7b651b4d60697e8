//! Checks `docs/reference` against the command line and the configuration of the program.

use std::collections::{BTreeMap, BTreeSet};

use clap::CommandFactory;

use super::{Arguments, exit};
use crate::config::Config;

const COMMANDS: &str = include_str!("../../../docs/reference/commands.md");
const CONFIGURATION: &str = include_str!("../../../docs/reference/configuration.md");
const SAMPLE: &str = include_str!("../../../docs/reloader.toml");

/// The text of a page below the heading `## TITLE`, up to the next heading of that level.
fn section<'a>(page: &'a str, title: &str) -> &'a str {
    let (_, below) = page.split_once(&format!("\n## {title}\n")).unwrap_or_else(|| panic!("no section {title:?}"));
    below.split("\n## ").next().unwrap_or(below)
}

/// The cells of each row of the tables in this text, including the rows of headings and rules.
fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let lines = text.lines().filter(|line| line.starts_with('|'));
    lines.map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
}

/// The first text in backticks.
fn code(words: &str) -> Option<&str> {
    words.split('`').nth(1)
}

#[test]
fn documented_options_are_those_of_each_command() {
    let program = Arguments::command();
    for command in program.get_subcommands().filter(|command| !command.is_hide_set()) {
        let of_clap: BTreeSet<String> = command
            .get_arguments()
            .filter(|argument| !argument.is_positional() && !["help", "version"].contains(&argument.get_id().as_str()))
            .map(|argument| match (argument.get_long(), argument.get_short()) {
                (Some(long), _) => format!("--{long}"),
                (None, short) => format!("-{}", short.expect("an option has a name")),
            })
            .collect();
        let text = section(COMMANDS, command.get_name());
        let options = rows(text).filter_map(|cells| code(cells[0])).filter(|word| word.starts_with('-'));
        let documented: BTreeSet<String> =
            options.map(|option| option.split([' ', '=', '[']).next().unwrap_or(option).to_owned()).collect();
        assert_eq!(documented, of_clap, "{}", command.get_name());
    }
}

#[test]
fn documented_exit_statuses_are_those_of_the_help() {
    let numbers = |text: &str| -> BTreeSet<u32> {
        text.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect()
    };
    let documented = |title: &str| -> BTreeSet<u32> {
        rows(section(COMMANDS, title)).filter_map(|cells| cells[0].split(' ').next()?.parse().ok()).collect()
    };
    assert_eq!(documented("Exit status"), numbers(exit::STATUSES));
    assert_eq!(documented("prove"), numbers(exit::PROVE));
    // The status for a signal that comes before the start of the command is in the table only.
    assert_eq!(documented("hold"), &numbers(exit::HOLD) | &BTreeSet::from([128]));
}

/// The keys of a section's tables with their defaults, as TOML.
fn defaults(title: &str) -> BTreeMap<&'static str, Option<&'static str>> {
    let keys = rows(section(CONFIGURATION, title)).filter(|cells| cells.len() == 3);
    keys.filter_map(|cells| Some((code(cells[0])?, code(cells[1])))).filter(|(key, _)| !key.starts_with('"')).collect()
}

fn table(heading: &str, keys: &BTreeMap<&str, Option<&str>>) -> String {
    let lines = keys.iter().filter_map(|(key, default)| Some(format!("{key} = {}\n", (*default)?)));
    format!("{heading}\n{}", lines.collect::<String>())
}

#[test]
fn documented_defaults_are_those_of_the_program() {
    let titles = ["The top", "`[haproxy]`", "`[reload]`", "`[hold]`"];
    let text: String = titles.iter().map(|title| table(code(title).unwrap_or_default(), &defaults(title))).collect();
    assert_eq!(Config::parse(&text).unwrap(), Config::parse("").unwrap(), "{text}");
    let sample: toml::Table = SAMPLE.parse().unwrap();
    let of_sample: BTreeSet<&str> = sample
        .iter()
        .flat_map(|(key, value)| {
            value.as_table().map_or(vec![key.as_str()], |table| table.keys().map(String::as_str).collect())
        })
        .collect();
    let documented: BTreeSet<&str> = titles.iter().flat_map(|title| defaults(title).into_keys()).collect();
    assert_eq!(documented, of_sample);
}

#[test]
fn documented_keys_of_a_service_are_those_of_the_program() {
    let keys = defaults("`[service.NAME]`");
    let required = "start = [\"/bin/web\"]\nsockets = \"replace\"\nlisten = [\"0.0.0.0:80\"]\n";
    let short = format!("[service.web]\n{required}");
    assert_eq!(Config::parse(&format!("{}{required}", table("[service.web]", &keys))), Config::parse(&short));
    // The message about an unknown key lists all keys.
    let message = Config::parse(&format!("{short}unknown = 1\n")).unwrap_err();
    let (_, known) = message.split_once("expected one of ").expect("a list of keys");
    let known: BTreeSet<&str> = known.split('`').skip(1).step_by(2).collect();
    assert_eq!(keys.into_keys().collect::<BTreeSet<_>>(), known);
}
