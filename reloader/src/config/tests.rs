//! Reads whole files: the defaults, the documented examples, and values that are refused.

use std::path::Path;
use std::time::Duration;

use super::{Config, OnStop, SpreadTime};

#[test]
fn an_empty_file_gives_the_documented_defaults() {
    let config = Config::parse("").unwrap();
    assert_eq!(config.haproxy.unwrap().binary, Path::new("/usr/sbin/haproxy"));
    assert_eq!(config.reload.start_timeout, Duration::from_secs(30));
    assert_eq!(config.reload.custody_max, None);
    assert_eq!(config.reload.close_spread_time, SpreadTime::Given("2s".into()));
    assert_eq!(config.on_stop, OnStop::Leave);
}

#[test]
fn every_documented_key_is_read() {
    let config = Config::parse(include_str!("../../../docs/reloader.toml")).unwrap();
    assert_eq!(config, Config::parse("").unwrap(), "the sample shows the defaults");
}

#[test]
fn every_example_of_a_service_is_read() {
    let text = include_str!("../../../docs/guide/other-servers.md");
    let examples: Vec<&str> = text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(examples.len(), 4);
    let config = Config::parse(&examples.concat()).unwrap();
    assert_eq!(config.names(), ["api", "app", "nginx", "web"]);
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    let message = Config::parse("\n[reload]\nstart-timout = \"5s\"\n").unwrap_err();
    assert!(
        message.contains("line 3") && message.contains("start-timout") && message.contains("start-timeout"),
        "{message}"
    );
}

#[test]
fn durations_need_a_unit() {
    let message = Config::parse("[reload]\nmin-interval = \"5\"\n").unwrap_err();
    assert!(message.contains("line 2") && message.contains("250ms"), "{message}");
    assert!(Config::parse("[reload]\nhard-stop-after = \"1h\"\n").is_ok());
}

#[test]
fn a_duration_beyond_all_clocks_is_refused() {
    let message = Config::parse("[hold]\nmax = \"18446744073709551615s\"\n").unwrap_err();
    assert!(message.contains("line 2") && message.contains("hundred years"), "{message}");
}
