//! Each block is run or read, or it is named with the reason why not.

use reloader::config::Config;
use reloader_tests::documents::{self, Block};

use super::{NOT_RUN, Place, host, systemd, sysv};

/// Prose, and output that belongs to no command.
const WITHOUT_COMMANDS: [&str; 2] = ["", "text"];

fn places() -> Vec<Place> {
    let run = [systemd::BLOCKS, sysv::BLOCKS, host::BLOCKS].concat();
    run.into_iter().chain(NOT_RUN.iter().map(|(place, _)| *place)).collect()
}

fn all_blocks() -> impl Iterator<Item = Block> {
    documents::pages().into_iter().flat_map(|page| documents::blocks(&page))
}

#[test]
fn every_block_is_run_or_read_or_named_with_a_reason() {
    let places = places();
    for block in all_blocks() {
        let named =
            places.iter().filter(|(page, beginning)| *page == block.page && block.text.starts_with(beginning)).count();
        let Block { page, line, language, .. } = &block;
        match language.as_str() {
            "toml" => drop(Config::parse(&block.text).unwrap_or_else(|why| panic!("{page}, line {line}: {why}"))),
            "json" => drop(
                serde_json::from_str::<serde_json::Value>(&block.text)
                    .unwrap_or_else(|why| panic!("{page}, line {line}: {why}")),
            ),
            language if WITHOUT_COMMANDS.contains(&language) => {}
            _ => assert_eq!(named, 1, "{page}, line {line}: run it in a test of docs, or name it in NOT_RUN"),
        }
    }
}

#[test]
fn every_place_is_a_block() {
    for (page, beginning) in places() {
        documents::block(page, beginning);
    }
}
