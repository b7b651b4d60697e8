//! Takes a unit through its life with reloader: takeover, ten reloads, a reboot of the machine, and the way back, all under load.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use reloader_tests::load::{Load, Running};
use reloader_tests::poll::until;
use reloader_tests::rig::Answer;

use super::scene::{CONNECTIONS, LIMIT, Scene, WEB};

const RELOADS: usize = 10;

type Reload = dyn Fn(&Scene, usize);
type Effects = dyn Fn(&Scene, &str);

/// The life of a unit in one surrounding: what the operator has around the unit, such as hooks and files of options.
pub(crate) struct Sequence {
    surrounding: &'static str,
    /// Parts of settings in the table of the takeover, with what becomes of them.
    fates: Vec<(&'static str, &'static str)>,
    targets: Vec<&'static str>,
    reload: Box<Reload>,
    effects: Box<Effects>,
}

impl Sequence {
    pub(crate) fn with(surrounding: &'static str) -> Sequence {
        Sequence {
            surrounding,
            fates: Vec::new(),
            targets: vec![WEB],
            reload: Box::new(|scene, _| scene.reload()),
            effects: Box::new(|_, _| {}),
        }
    }

    /// The takeover lists a setting that contains this text, with this fate.
    pub(crate) fn fate(mut self, setting: &'static str, fate: &'static str) -> Sequence {
        self.fates.push((setting, fate));
        self
    }

    /// Loads this address too.
    pub(crate) fn target(mut self, address: &'static str) -> Sequence {
        self.targets.push(address);
        self
    }

    /// Reloads in this way, instead of by `systemctl reload`. The second argument is the number of the reload, from 0.
    pub(crate) fn reload(mut self, reload: impl Fn(&Scene, usize) + 'static) -> Sequence {
        self.reload = Box::new(reload);
        self
    }

    /// Checks what the surrounding is for. The second argument is the main process of the HAProxy that serves.
    pub(crate) fn effects(mut self, effects: impl Fn(&Scene, &str) + 'static) -> Sequence {
        self.effects = Box::new(effects);
        self
    }

    /// Runs the whole sequence, and prints its row for the table of surroundings.
    pub(crate) fn run(&self, scene: &mut Scene) {
        let began = Instant::now();
        let seconds = || began.elapsed().as_secs();
        let unit_before = scene.unit_files();
        (self.effects)(scene, &scene.main_pid());
        self.plan_is_printed(scene);

        let (load, mut idle) = (self.load(scene), scene.idle());
        takeover(scene, &[]).expect_status(0);
        scene.assert_status("last adoption proven");
        (self.effects)(scene, &scene.serving().to_string());
        let taken_over = seconds();

        for number in 0..RELOADS {
            self.reload_is_proven(scene, number);
        }
        (self.effects)(scene, &scene.serving().to_string());
        load.until_further(300);
        let first = load.stop();
        first.assert_lossless();
        assert_eq!(idle.alive(), CONNECTIONS, "{:?}", idle.deaths());
        let reloaded = seconds();

        scene.reboot();
        until(LIMIT, "the unit to serve after the boot", || scene.property("ActiveState") == "active");
        scene.assert_status("last start proven");
        (self.effects)(scene, &scene.serving().to_string());
        let rebooted = seconds();
        let (load, mut idle) = (self.load(scene), scene.idle());
        self.reload_is_proven(scene, RELOADS);
        (self.effects)(scene, &scene.serving().to_string());

        let undone = takeover(scene, &["--undo"]).expect_status(0);
        assert!(!undone.stderr.contains("bound again"), "{}", undone.stderr);
        assert_eq!(scene.unit_files(), unit_before, "the unit is not as it was");
        (self.effects)(scene, &scene.main_pid());
        (self.reload)(scene, RELOADS + 1);
        load.until_further(300);
        let second = load.stop();
        second.assert_lossless();
        assert_eq!(idle.alive(), CONNECTIONS, "{:?}", idle.deaths());
        scene.machine.systemctl(&["restart", scene.unit]);
        (self.effects)(scene, &scene.main_pid());
        self.targets.iter().for_each(|address| assert_eq!(get(address), "ok", "{address}"));

        let (first, second) = (first.summary(), second.summary());
        println!("surrounding | takeover | {RELOADS} reloads | reboot | undo | lost");
        println!(
            "{} | adopted ({taken_over} s) | {RELOADS} of {RELOADS} proven ({reloaded} s) | start proven ({rebooted} s) | as before ({} s) | {} of {}",
            self.surrounding,
            seconds(),
            first.failed() + second.failed(),
            first.connections + second.connections,
        );
    }

    fn load(&self, scene: &Scene) -> Running {
        match self.targets.len() {
            1 => scene.load(),
            _ => {
                let load = Load::to(self.targets.iter().copied()).rate(1000).start();
                load.until_started(500);
                load
            }
        }
    }

    /// The plan names the fate of each setting and changes nothing.
    fn plan_is_printed(&self, scene: &Scene) {
        let (unit, main_pid) = (scene.unit_files(), scene.main_pid());
        let plan = takeover(scene, &["--dry-run", "--json"]).expect_status(0);
        let rows = plan.at("/settings").as_array().expect("the table").clone();
        for row in &rows {
            println!("{}: {} | {} | {}", self.surrounding, row["setting"], row["fate"], row["how"]);
        }
        for (setting, fate) in &self.fates {
            let row = rows.iter().find(|row| row["setting"].as_str().expect("text").contains(setting));
            assert_eq!(row.unwrap_or_else(|| panic!("{setting} is not in the table"))["fate"], *fate, "{setting}");
        }
        assert_eq!((scene.unit_files(), scene.main_pid()), (unit, main_pid), "the dry run has changed something");
    }

    /// One reload leads to one receipt, which is proven, and to another process that serves.
    fn reload_is_proven(&self, scene: &Scene, number: usize) {
        let (serving, before) = (scene.serving(), scene.receipts().len());
        (self.reload)(scene, number);
        // A signal has no answer.
        until(LIMIT, "a reload", || scene.receipts().len() > before && scene.serving() != serving);
        let receipts = scene.receipts();
        assert_eq!(receipts.len(), before + 1, "{receipts:#?}");
        let kind = (&receipts[0]["kind"], &receipts[0]["result"]);
        assert_eq!(kind, (&"reload".into(), &"proven".into()), "{:#}", receipts[0]);
    }
}

/// Runs `reloader takeover` for the scene's unit.
pub(crate) fn takeover(scene: &Scene, words: &[&str]) -> Answer {
    scene.reloader(&[&["takeover", scene.unit], words].concat())
}

/// The body of the answer to a request.
#[track_caller]
pub(crate) fn get(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap_or_else(|error| panic!("{address}: {error}"));
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    body.unwrap_or_else(|| panic!("{address} has no answer: {answer:?}"))
}
