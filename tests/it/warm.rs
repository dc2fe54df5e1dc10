//! What the sidecar knew outlives a restart: stale and marked while Kinto is down, compared before it is believed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::stale::{MONITOR, is_marked};
use crate::support::{Chaos, Client, Kinto, KintoOptions, SERVICE_ACCOUNT, Sidecar, eventually, unique};

/// What only those with credentials may read.
const SECRET: &str = "for-alice-alone";

/// A sidecar that keeps what it knows in a folder, before a Kinto that can go away: a public collection and a private one.
struct Scene {
    chaos: Chaos,
    sidecar: Sidecar,
    public: String,
    private: String,
    directory: TempDir,
}

impl Scene {
    /// With a journal that is gone with its process.
    async fn begin(kinto: &Kinto) -> Self {
        Self::begin_with(kinto, "sqlite::memory:").await
    }

    /// Both collections were read by those who may.
    async fn begin_with(kinto: &Kinto, journal: &str) -> Self {
        let [public, private] = ["public", "private"].map(|stem| format!("/buckets/{}", unique(stem)));
        make(kinto, &public, &["known", "doomed"]).await;
        make(kinto, &private, &[SECRET]).await;
        kinto
            .client()
            .user("alice")
            .patch(&private)
            .json(json!({"permissions": {"read": []}}))
            .await
            .expect(200);
        let (chaos, directory) = (Chaos::before(kinto.url()), tempfile::tempdir().unwrap());
        let (folder, resources) = (directory.path().to_str().unwrap(), format!("{public} {private}"));
        let settings = [
            SERVICE_ACCOUNT,
            ("changes.resources", &*resources),
            ("sidecar.state_dir", folder),
            ("sidecar.journal", journal),
            ("sidecar.admin_listen", "127.0.0.1:0"),
        ];
        let scene =
            Self { sidecar: Sidecar::start(chaos.url(), &settings), chaos, public, private, directory };
        scene.list().await;
        scene.client().get(&scene.changeset()).await.expect(200);
        // From here on the timestamps are ones that this sidecar has given.
        let record = format!("{}/collections/c/records/through", scene.public);
        scene.client().user("alice").put(&record).await.expect(201);
        scene.client().get(&scene.changeset()).await.expect(200);
        scene.client().user("alice").get(&changeset(&scene.private)).await.expect(200);
        scene
    }

    fn client(&self) -> Client {
        self.sidecar.client()
    }

    fn changeset(&self) -> String {
        changeset(&self.public)
    }

    async fn list(&self) -> Value {
        self.client().get(&format!("{MONITOR}/records")).await.expect(200).json()
    }

    /// Ends the sidecar in order.
    fn end(&mut self) {
        self.sidecar.terminate();
        assert!(self.sidecar.wait(Duration::from_secs(10)).is_some_and(|status| status.success()));
    }

    fn folder(&self) -> PathBuf {
        self.directory.path().join("kinto-sidecar.warm")
    }

    /// The files of contents.
    fn contents(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.folder()) else { return Vec::new() };
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.file_name().unwrap().len() == 40).collect()
    }
}

fn changeset(bucket: &str) -> String {
    format!("{bucket}/collections/c/changeset?_expected=0")
}

/// Makes a bucket that everybody may read, with a collection of these records.
async fn make(kinto: &Kinto, bucket: &str, records: &[&str]) {
    let direct = kinto.client().user("alice");
    let everybody = json!({"permissions": {"read": ["system.Everyone"]}});
    direct.put(bucket).json(everybody).await.expect(201);
    // The same metadata wherever it is made.
    direct.put(&format!("{bucket}/collections/c")).data(json!({"last_modified": 5})).await.expect(201);
    for record in records {
        direct.put(&format!("{bucket}/collections/c/records/{record}")).await.expect(201);
    }
}

/// The ids in a changeset.
fn ids(changeset: &Value) -> Vec<&str> {
    let mut ids: Vec<_> = changeset["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| change["id"].as_str().unwrap())
        .collect();
    ids.sort_unstable();
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_while_kinto_is_down_gives_out_what_was_known_and_says_so() {
    let kinto = Kinto::shared();
    // The names of versions in a feed are those of one journal.
    let directory = tempfile::tempdir().unwrap();
    let journal = format!("sqlite:{}", directory.path().join("journal.db").display());
    let mut scene = Scene::begin_with(kinto, &journal).await;
    let paths = [
        format!("{MONITOR}/records"),
        format!("{MONITOR}/changeset?_expected=0"),
        "/__broadcasts__".to_owned(),
        "/_changes".to_owned(),
        scene.changeset(),
        format!("{}/collections/c/_changes", scene.public),
    ];
    let mut before = Vec::new();
    for path in &paths {
        before.push(scene.client().get(path).await.expect(200));
    }
    scene.chaos.cut();
    scene.end();
    for path in fs::read_dir(scene.folder()).unwrap().map(|entry| entry.unwrap().path()) {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{path:?}");
        let bytes = fs::read(&path).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains(SECRET), "{path:?}");
    }

    scene.sidecar.restart();
    for (path, before) in paths.iter().zip(&before) {
        let answer = scene.client().get(path).await.expect(200);
        assert_eq!(answer.json(), before.json(), "{path}");
        assert_eq!(answer.header("etag"), before.header("etag"), "{path}");
        assert!(is_marked(&answer) && answer.header("age").is_some(), "{path}: {answer}");
    }
    // Who may read it is not known without Kinto.
    let alice = scene.client().user("alice");
    alice.get(&changeset(&scene.private)).await.expect(503);
    alice.get(&scene.changeset()).await.expect(503);
    scene.client().get(&changeset(&scene.private)).await.expect(503);
    let admin = Client::new(&scene.sidecar.admin().unwrap());
    let ready = admin.request_target(http::Method::GET, "/health/ready").await.expect(200).json();
    assert_eq!(
        (&ready["reads"], &ready["degraded"], &ready["upstream"]),
        (&json!(true), &json!(true), &json!(false))
    );

    let direct = kinto.client().user("alice");
    let record = |id: &str| format!("{}/collections/c/records/{id}", scene.public);
    direct.put(&record("new")).await.expect(201);
    direct.delete(&record("doomed")).await.expect(200);
    scene.chaos.restore();
    let list = eventually("the list as it is", async || {
        let answer = scene.client().get(&format!("{MONITOR}/records")).await.expect(200);
        (!is_marked(&answer)).then_some(answer)
    })
    .await;
    let answer = scene.client().get(&scene.changeset()).await.expect(200);
    assert!(!is_marked(&answer), "{answer}");
    assert_eq!(ids(&answer.json()), ["known", "new", "through"]);
    let newest = direct.head(&format!("{}/collections/c/records", scene.public)).await.timestamp();
    assert_eq!((answer.json()["timestamp"].as_u64(), list.timestamp()), (Some(newest), newest));
    let since = before[4].json()["timestamp"].as_u64().unwrap();
    let delta = scene.client().get(&format!("{}&_since=%22{since}%22", scene.changeset())).await.expect(200);
    assert_eq!(ids(&delta.json()), ["doomed", "new"], "what the reader had is not told again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_the_list_is_told_nothing_again_after_a_restart() {
    let mut scene = Scene::begin(Kinto::shared()).await;
    let answer = scene.client().get(&format!("{MONITOR}/records")).await.expect(200);
    let since = format!("{MONITOR}/records?_since={}", answer.timestamp());
    scene.sidecar.restart();
    let answer = eventually("the list", async || {
        let answer = scene.client().get(&since).await.expect(200);
        (!is_marked(&answer)).then_some(answer)
    })
    .await;
    assert_eq!(answer.data(), json!([]));
    let record = format!("{}/collections/c/records/later", scene.public);
    scene.client().user("alice").put(&record).await.expect(201);
    assert_eq!(scene.client().get(&since).await.expect(200).data().as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kinto_that_is_empty_or_has_an_older_database_is_not_taken_for_the_one_before() {
    let (mut one, mut two) = (Scene::begin(Kinto::shared()).await, Scene::begin(Kinto::shared()).await);
    let other = Kinto::start(KintoOptions::memory());
    for scene in [&one, &two] {
        scene.chaos.cut();
        scene.chaos.lead_to(other.url());
    }
    one.end();
    one.chaos.restore();
    one.sidecar.restart();
    let list = eventually("an empty list", async || {
        let answer = one.client().get(&format!("{MONITOR}/records")).await.expect(200);
        (!is_marked(&answer)).then_some(answer)
    })
    .await;
    assert_eq!(list.data(), json!([]));
    let status = one.client().get(&one.changeset()).await.status;
    assert!([401, 404].contains(&status), "{status}");

    // As it was before some of the writes, and went on from there.
    make(&other, &two.public, &[]).await;
    make(&other, &two.private, &[]).await;
    let direct = other.client().user("alice");
    let record = |id: &str| format!("{}/collections/c/records/{id}", two.public);
    let known = Kinto::shared().client().user("alice").get(&record("known")).await.expect(200).data();
    direct.put(&record("known")).data(known).await.expect(201);
    direct.put(&record("another")).await.expect(201);
    two.end();
    two.chaos.restore();
    two.sidecar.restart();
    let answer = two.client().get(&two.changeset()).await.expect(200);
    assert!(!is_marked(&answer), "{answer}");
    assert_eq!(ids(&answer.json()), ["another", "known"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_broken_foreign_or_of_another_format_is_ignored_and_loses_nothing_else() {
    let mut scene = Scene::begin(Kinto::shared()).await;
    // A connection that is taken and reset is 502 or 503, by who is first to see it.
    scene.chaos.leave();
    scene.end();
    let (index, contents) = (scene.folder().join("index"), scene.contents());
    assert_eq!(contents.len(), 1, "{contents:?}");
    let good: Vec<_> = [&index, &contents[0]].map(|path| (path.clone(), fs::read(path).unwrap())).into();
    let text = String::from_utf8(good[0].1.clone()).unwrap();
    let replaced = |from: &str, to: &str| Some(text.replace(from, to).into_bytes());
    let broken: [(&PathBuf, Option<Vec<u8>>); 8] = [
        (&index, Some(text.as_bytes()[..text.len() / 2].to_vec())),
        (&index, Some(Vec::new())),
        (&index, Some(b"{}".to_vec())),
        (&index, replaced("known", "other")),
        (&index, replaced("warm 1 ", "warm 2 ")),
        (&index, replaced("warm 1 ", "warm 0 ")),
        (&contents[0], Some(good[1].1[..good[1].1.len() - 1].to_vec())),
        (&contents[0], None),
    ];
    for (path, bytes) in broken.into_iter().filter(|(_, bytes)| bytes.as_deref() != Some(text.as_bytes())) {
        for (path, bytes) in &good {
            fs::write(path, bytes).unwrap();
        }
        match &bytes {
            Some(bytes) => fs::write(path, bytes).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
        let logged = scene.sidecar.log().len();
        scene.sidecar.restart();
        let log = scene.sidecar.log().split_off(logged);
        assert_eq!(log.matches("kept for a restart is not used").count(), 1, "{bytes:?}: {log}");
        let expected = if *path == index { 503 } else { 200 };
        scene.client().get(&format!("{MONITOR}/records")).await.expect(expected);
        scene.client().get(&scene.changeset()).await.expect(503);
        scene.end();
    }
    // Data of another Kinto.
    for (path, bytes) in &good {
        fs::write(path, bytes).unwrap();
    }
    let elsewhere = Chaos::before(Kinto::shared().url());
    elsewhere.cut();
    let settings = [("sidecar.state_dir", scene.directory.path().to_str().unwrap())];
    let other = Sidecar::start(elsewhere.url(), &settings);
    assert!(other.log().contains("kept for a restart is not used"), "{}", other.log());
    other.client().get(&scene.changeset()).await.expect(503);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_loses_little_and_what_is_public_no_more_is_removed() {
    let mut scene = Scene::begin(Kinto::shared()).await;
    eventually("a file", async || (scene.contents().len() == 1).then_some(())).await;
    scene.chaos.cut();
    scene.sidecar.kill();
    scene.sidecar.restart();
    let answer = scene.client().get(&scene.changeset()).await.expect(200);
    assert!(is_marked(&answer) && ids(&answer.json()).contains(&"known"), "{answer}");
    scene.chaos.restore();
    let alice = scene.client().user("alice");
    eventually("Kinto", async || (alice.get(&scene.public).await.status == 200).then_some(())).await;
    scene.client().get(&scene.changeset()).await.expect(200);
    alice.patch(&scene.public).json(json!({"permissions": {"read": []}})).await.expect(200);
    eventually("no file", async || scene.contents().is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_cannot_be_written_and_a_full_disk_are_told_and_keep_nobody_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let kinto = Kinto::shared();
    let below = file.join("below");
    let sidecar = Sidecar::start(kinto.url(), &[("sidecar.state_dir", below.to_str().unwrap())]);
    let is_told = async |sidecar: &Sidecar| sidecar.log().contains("nothing can be kept").then_some(());
    eventually("a line", async || is_told(&sidecar).await).await;
    sidecar.client().get("/").await.expect(200);

    let mut scene = Scene::begin(kinto).await;
    let process = Pid::from_raw(scene.sidecar.process_id().try_into().unwrap());
    prlimit(process, Resource::Fsize, Rlimit { current: Some(1), maximum: None }).unwrap();
    let record = format!("{}/collections/c/records/one-more", scene.public);
    scene.client().user("alice").put(&record).await.expect(201);
    scene.client().get(&scene.changeset()).await.expect(200);
    eventually("a line", async || is_told(&scene.sidecar).await).await;
    scene.client().get(&scene.changeset()).await.expect(200);
    scene.end();
}
