//! Tests that the init script starts the daemon at boot and stops it at shutdown.

use reloader_tests::booted::Setup;
use reloader_tests::load::Load;

use super::scene::{Scene, WEB};

#[test]
#[ignore = "alone: boots a machine and loads it"]
fn script_starts_at_boot_and_does_not_delay_shutdown() {
    let scene = Scene::boot(Setup::default().with_init_script());
    scene.assert_runs();
    Load::to([WEB]).connections(100).run().assert_lossless();
    scene.machine.run(&["telinit", "0"]).expect_status(0);
    scene.machine.until_off();
    let log = scene.machine.log();
    assert!(log.contains("serves on"), "`stop` was not called:\n{log}");
}
