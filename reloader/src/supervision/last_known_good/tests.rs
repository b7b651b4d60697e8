use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::*;
use crate::haproxy::named_files::digests;
use crate::haproxy::scan::{self, Source};

/// A state directory, and a directory with files of HAProxy.
struct Scene {
    state: tempfile::TempDir,
    etc: tempfile::TempDir,
}

impl Scene {
    fn new() -> Scene {
        Scene { state: tempfile::tempdir().unwrap(), etc: tempfile::tempdir().unwrap() }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.etc.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn open(&self) -> LastKnownGood {
        LastKnownGood::open(self.state.path())
    }

    fn kept(&self) -> PathBuf {
        self.state.path().join("last-known-good")
    }

    async fn save(&self, config: &[PathBuf], with_files: bool) -> io::Result<bool> {
        let sources = scan::read(config).unwrap();
        let configuration = digests(&sources, Path::new("/"));
        self.save_with(config, with_files, configuration).await
    }

    async fn save_with(
        &self,
        config: &[PathBuf],
        with_files: bool,
        configuration: Vec<FileDigest>,
    ) -> io::Result<bool> {
        let sources = scan::read(config).unwrap();
        let read = ReadByServer::new(config.to_vec(), sources, "/".into());
        self.open().save(read, with_files, configuration, false).await
    }

    /// The text from which HAProxy would start.
    fn started_from(&self) -> Vec<Source> {
        scan::read(&self.open().config().unwrap()).unwrap()
    }
}

#[tokio::test]
async fn saved_copies_are_read_back_in_order_by_a_later_daemon() {
    let scene = Scene::new();
    let old = scene.write("old.cfg", "old");
    let config = [scene.write("z.cfg", "global\n"), scene.write("a.cfg", "# x\n")];
    fs::write(&config[1], b"# \xff\n").unwrap();
    assert!(scene.save(&[old], true).await.unwrap());
    assert!(scene.save(&config, true).await.unwrap());
    let read: Vec<Vec<u8>> = scene.started_from().into_iter().map(|(_, bytes)| bytes).collect();
    assert_eq!(read, [b"global\n".to_vec(), b"# \xff\n".to_vec()]);
    assert_eq!(fs::read(scene.kept().join("0000-z.cfg")).unwrap(), b"global\n");
}

#[tokio::test]
async fn named_files_are_copied_for_their_owner_alone() {
    let scene = Scene::new();
    let config = [scene.write("a.cfg", "global\n default-path config\nfrontend f\n bind :1 ssl crt a.pem\n")];
    let (certificate, key) = (scene.write("a.pem", "certificate"), scene.write("a.pem.key", "key"));
    scene.save(&config, true).await.unwrap();
    let copy = |original: &Path| scene.kept().join("files").join(original.strip_prefix("/").unwrap());
    assert_eq!(fs::read_to_string(copy(&certificate)).unwrap(), "certificate");
    let (source, text) = &scene.started_from()[0];
    assert!(String::from_utf8_lossy(text).contains(&format!("crt {}\n", copy(&certificate).display())));
    for file in [copy(&certificate), copy(&key), scene.kept().join("0000-a.cfg"), source.clone()] {
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let directories = file.ancestors().skip(1).take_while(|directory| *directory != scene.state.path());
        for directory in directories {
            assert_eq!(fs::metadata(directory).unwrap().permissions().mode() & 0o777, 0o700, "{directory:?}");
        }
    }
    // The original configuration is there as it was.
    assert_eq!(fs::read(scene.kept().join("0000-a.cfg")).unwrap(), fs::read(&config[0]).unwrap());
}

#[tokio::test]
async fn config_only_copies_no_other_file_and_keeps_relative_names_true() {
    let scene = Scene::new();
    let config = [scene.write("a.cfg", "global\n default-path config\nfrontend f\n bind :1 ssl crt a.pem\n")];
    scene.write("a.pem", "certificate");
    assert!(scene.save(&config, true).await.unwrap());
    assert!(scene.save(&config, false).await.unwrap());
    assert!(!scene.kept().join("files").exists());
    let text = String::from_utf8_lossy(&scene.started_from()[0].1).into_owned();
    assert!(
        text.contains(&format!("origin \"{}\"", scene.etc.path().display())) && text.contains("crt a.pem"),
        "{text}"
    );
}

#[tokio::test]
async fn copies_that_haproxy_refused_are_written_again() {
    let scene = Scene::new();
    let page = scene.write("e", "one");
    let config = [scene.write("a.cfg", &format!("frontend f\n errorfile 500 {}\n", page.display()))];
    assert!(scene.save(&config, true).await.unwrap());
    let copy = scene.kept().join("files").join(page.strip_prefix("/").unwrap());
    fs::write(&copy, "damaged").unwrap();
    assert!(!scene.save(&config, true).await.unwrap(), "nothing tells that it is damaged");
    let sources = scan::read(&config).unwrap();
    let configuration = digests(&sources, Path::new("/"));
    let read = ReadByServer::new(config.to_vec(), sources, "/".into());
    assert!(scene.open().save(read, true, configuration, true).await.unwrap());
    assert_eq!(fs::read_to_string(&copy).unwrap(), "one");
}

#[tokio::test]
async fn nothing_is_written_when_nothing_changed() {
    let scene = Scene::new();
    let config = [scene.write(
        "a.cfg",
        "frontend f\n errorfile 500 ROOT/e\n".replace("ROOT", &scene.etc.path().display().to_string()).as_str(),
    )];
    let page = scene.write("e", "one");
    assert!(scene.save(&config, true).await.unwrap());
    let copy = scene.kept().join("files").join(page.strip_prefix("/").unwrap());
    let inodes = || [scene.kept(), copy.clone()].map(|path| fs::metadata(path).unwrap().ino());
    let before = inodes();
    assert!(!scene.save(&config, true).await.unwrap());
    assert_eq!(inodes(), before);
    // The copy of a file that is the same is taken over.
    fs::write(&config[0], [&fs::read(&config[0]).unwrap()[..], b"# new\n"].concat()).unwrap();
    assert!(scene.save(&config, true).await.unwrap());
    assert!(inodes()[0] != before[0] && inodes()[1] == before[1]);
    fs::write(&page, "two").unwrap();
    assert!(scene.save(&config, true).await.unwrap());
    assert_eq!((fs::read_to_string(&copy).unwrap(), inodes()[1] != before[1]), ("two".into(), true));
    fs::remove_dir_all(scene.kept()).unwrap();
    assert!(scene.save(&config, true).await.unwrap());
}

#[tokio::test]
async fn file_that_changed_since_haproxy_read_it_leaves_the_earlier_copies() {
    let scene = Scene::new();
    let page = scene.write("e", "one");
    let config = [scene.write("a.cfg", &format!("frontend f\n errorfile 500 {}\n", page.display()))];
    assert!(scene.save(&config, true).await.unwrap());
    fs::write(&page, "two").unwrap();
    let configuration = digests(&scan::read(&config).unwrap(), Path::new("/"));
    fs::write(&page, "three").unwrap();
    let error = scene.save_with(&config, true, configuration).await.unwrap_err();
    assert!(error.to_string().contains("/e"), "{error}");
    let copy = scene.kept().join("files").join(page.strip_prefix("/").unwrap());
    assert_eq!(fs::read_to_string(copy).unwrap(), "one");
}

#[tokio::test]
async fn a_save_cut_short_leaves_the_earlier_copies() {
    let scene = Scene::new();
    let config = [scene.write("a.cfg", "global\n")];
    scene.save(&config, true).await.unwrap();
    let old = scene.state.path().join("last-known-good.old");
    fs::rename(scene.kept(), &old).unwrap();
    assert!(scene.open().config().is_some());
    // The texts name files below this path.
    assert!(scene.kept().join("start").is_dir() && !old.exists());
    assert!(LastKnownGood::open(&scene.state.path().join("none")).config().is_none());
}

#[tokio::test]
async fn what_a_killed_daemon_left_beside_the_copies_is_removed() {
    let scene = Scene::new();
    scene.save(&[scene.write("a.cfg", "global\n")], true).await.unwrap();
    let left = ["new", "old"].map(|ending| scene.kept().with_extension(ending));
    for directory in &left {
        fs::create_dir(directory).unwrap();
        fs::write(directory.join("key"), "private").unwrap();
    }
    assert!(scene.open().config().is_some());
    assert!(left.iter().all(|directory| !directory.exists()));
}

#[tokio::test]
async fn copies_of_an_earlier_version_are_used() {
    let scene = Scene::new();
    fs::create_dir(scene.kept()).unwrap();
    fs::write(scene.kept().join("0000-a.cfg"), "global\n").unwrap();
    assert_eq!(scene.open().config(), Some(vec![scene.kept()]));
}
