//! The objects that commands print with `--json` have the keys that the reference lists.

use std::collections::BTreeSet;

use reloader_tests::config::Config;
use reloader_tests::documents::table;
use reloader_tests::netns;
use reloader_tests::rig::Rig;

const COMMANDS: &str = "docs/reference/commands.md";

/// The words in code font of the row for `--json` below a command's heading, those that are options excepted.
fn documented(command: &str) -> BTreeSet<String> {
    let rows = table(COMMANDS, &format!("## {command}"));
    let row = rows.into_iter().find(|cells| cells[0] == "`--json`").expect("a row for --json");
    let words = row[1].split('`').skip(1).step_by(2).filter(|word| !word.starts_with('-'));
    words.map(str::to_owned).collect()
}

#[test]
fn objects_have_the_documented_keys() {
    netns::enter();
    let rig = Rig::with(&Config::web("127.0.0.1:8080")).start();
    for (command, arguments) in [
        ("probe", &["probe", "--json"][..]),
        ("reload", &["reload", "--dry-run", "--json"]),
        ("release", &["release", "--json"]),
    ] {
        let printed = rig.run(arguments).expect_status(0);
        let keys: BTreeSet<String> = printed.json.as_object().expect("an object").keys().cloned().collect();
        assert_eq!(keys, documented(command), "{command}");
    }
}
