//! Signatures: what does not verify is not published while a good one is kept.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use serde_json::{Value, json};

use super::{changeset_of, public_bucket, sidecar_of, v2};
use crate::check::examined;
use crate::support::stub::Stub;
use crate::support::{
    Client, Environment, Kinto, SERVICE_ACCOUNT, Sidecar, environment, eventually, tests_folder, unique,
};

const VERIFIED: (&str, &str) = ("sidecar.verify_signatures", "true");
/// What serves chains here is no public address.
const HERE: (&str, &str) = ("sidecar.signature_hosts", "127.0.0.1");
const ADMIN: (&str, &str) = ("sidecar.admin_listen", "127.0.0.1:0");

/// Signs, and verifies, in Python.
pub(super) struct Signer {
    process: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    folder: tempfile::TempDir,
    key: rcgen::KeyPair,
}

impl Signer {
    pub(super) fn start() -> Self {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let private = folder.path().join("private.pem");
        std::fs::write(&private, key.serialize_pem()).unwrap();
        std::fs::write(folder.path().join("public.pem"), key.public_key_pem()).unwrap();
        let mut process = Command::new(environment(Environment::Readers).python())
            .arg(tests_folder().join("clients/signer.py"))
            .arg(private)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = process.stdin.take().unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        Self { process, stdin, stdout, folder, key }
    }

    pub(super) fn public(&self) -> String {
        self.folder.path().join("public.pem").display().to_string()
    }

    fn ask(&mut self, request: Value) -> Value {
        writeln!(self.stdin, "{request}").unwrap();
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    pub(super) fn is_good(&mut self, changeset: &Value) -> bool {
        self.ask(json!({ "changeset": changeset })) == json!(true)
    }

    /// A bucket that anybody may read, with a signed collection; its name, the collection's URI, and its owner at Kinto itself.
    pub(super) async fn bucket(&mut self, stem: &str, x5u: &str) -> (String, String, Client) {
        let (bucket, owner) = (unique(stem), Kinto::shared().client().user("owner"));
        public_bucket(&owner, &bucket, &["c"]).await;
        let uri = format!("/buckets/{bucket}/collections/c");
        self.sign(&owner, &uri, x5u).await;
        (bucket, uri, owner)
    }

    /// A sidecar that looks at a bucket's signatures.
    fn sidecar(&self, bucket: &str) -> Sidecar {
        let settings = [("sidecar.signature_key", &*self.public()), VERIFIED, ADMIN];
        sidecar_of(&[bucket], &settings)
    }

    /// Signs a collection as it is now.
    pub(super) async fn sign(&mut self, owner: &Client, uri: &str, x5u: &str) {
        let list = owner.get(&format!("{uri}/records")).await.expect(200);
        let signature = self.ask(json!({"records": list.data(), "timestamp": list.timestamp()}));
        let signature = json!({"signature": signature, "x5u": x5u, "mode": "p384ecdsa"});
        owner.patch(uri).data(json!({"signature": signature})).await.expect(200);
    }
}

impl Drop for Signer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn why(sidecar: &Sidecar) -> String {
    let health = Client::new(&sidecar.admin().unwrap());
    health.request_target(http::Method::GET, "/health/ready").await.text()
}

/// Waits until something, or nothing, does not verify.
async fn until_trouble_is(sidecar: &Sidecar, expected: bool) {
    eventually("the signature to be looked at", async || {
        (why(sidecar).await.contains("does not verify") == expected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn every_changeset_verifies_while_records_and_signatures_change() {
    let mut signer = Signer::start();
    let (bucket, uri, direct) = signer.bucket("signed", "").await;
    let odd = json!({"text": "é \"\\ \u{1f600} </x>", "n": 7, "nested": {"b": [null, true], "a": {}}});
    direct.put(&format!("{uri}/records/odd")).data(odd).await.expect(201);
    signer.sign(&direct, &uri, "").await;
    let sidecar = signer.sidecar(&bucket);
    let (client, owner) = (sidecar.client(), sidecar.client().user("owner"));
    let path = format!("{}?_expected=0", changeset_of(&bucket, "c"));
    let list = "/buckets/monitor/collections/changes/changeset?_expected=0";
    let published = async || v2(&client, &path).await.expect(200).json();
    let mut last = published().await;
    assert!(signer.is_good(&last));
    let rounds = std::env::var("SEEDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(5);
    for round in 0..rounds {
        owner.put(&format!("{uri}/records/r{}", round % 3)).data(json!({"round": round})).await;
        if round % 2 == 1 {
            owner.patch(&uri).data(json!({"displayFields": [round.to_string()]})).await.expect(200);
        }
        // The record is there, and its signature is not yet.
        assert_eq!(published().await["timestamp"], last["timestamp"]);
        // The later ones may be given what the first was given.
        for _ in 0..3 {
            let listed = v2(&client, list).await.expect(200).json();
            assert_eq!(
                listed["changes"][0]["last_modified"], last["timestamp"],
                "what is listed is what is published"
            );
        }
        assert_eq!(client.get(&path).await.expect(200).json()["timestamp"], last["timestamp"], "on /v1, too");
        assert!(why(&sidecar).await.contains("does not verify"));
        signer.sign(&owner, &uri, "").await;
        let now = published().await;
        assert!(now["timestamp"].as_u64() > last["timestamp"].as_u64());
        assert!(signer.is_good(&now), "{now}");
        assert_eq!(
            v2(&client, list).await.expect(200).json()["changes"][0]["last_modified"],
            now["timestamp"]
        );
        last = now;
    }
    assert!(!why(&sidecar).await.contains("does not verify"));
    let counted = async |outcome: &str| {
        sidecar.metric(&format!("kinto_sidecar_signatures_total{{outcome=\"{outcome}\"}}")).await.unwrap()
    };
    let (good, bad) = (counted("good").await, counted("bad").await);
    // Each round has one of either.
    assert!(good >= rounds && bad >= rounds, "{good} good, {bad} bad");
}

/// `READS=10000` reads more: 10 000 answers were given so in nine minutes on two busy cores, each verified, none was refused.
#[tokio::test]
async fn whatever_is_read_while_all_of_it_changes_verifies() {
    let reads = std::env::var("READS").ok().and_then(|reads| reads.parse().ok()).unwrap_or(200);
    let mut signer = Signer::start();
    let (bucket, uri, direct) = signer.bucket("busy", "").await;
    let sidecar = signer.sidecar(&bucket);
    let (client, owner) = (sidecar.client(), sidecar.client().user("owner"));
    let path = format!("{}?_expected=0", changeset_of(&bucket, "c"));
    v2(&client, &path).await.expect(200);
    let writes = async {
        for round in 0_u64.. {
            // What passes elsewhere is found, too.
            let writer = if round % 5 == 4 { &direct } else { &owner };
            let record = format!("{uri}/records/r{}", round % 7);
            if round % 3 == 2 {
                writer.delete(&record).await;
            } else {
                writer.put(&record).data(json!({"round": round})).await;
            }
            if round % 4 == 3 {
                writer.patch(&uri).data(json!({"displayFields": [round.to_string()]})).await.expect(200);
            }
            signer.sign(writer, &uri, "").await;
        }
    };
    let reading = async {
        let mut answers = Vec::new();
        while answers.len() < reads {
            for request in [v2(&client, &path), client.get(&path)] {
                // It may change faster than it can be read: what verified last is there.
                answers.push(request.await.expect(200).json());
            }
        }
        answers
    };
    let answers = tokio::select! {
        answers = reading => answers,
        () = writes => Vec::new(),
    };
    assert!(answers.len() >= reads);
    let timestamps: std::collections::BTreeSet<u64> =
        answers.iter().map(|answer| answer["timestamp"].as_u64().unwrap()).collect();
    assert!(timestamps.len() > 1, "it changes meanwhile");
    for answer in &answers {
        assert!(signer.is_good(answer), "{answer}");
    }
}

/// What the list says of a bucket's only collection.
async fn listed(client: &Client) -> Value {
    let list = "/buckets/monitor/collections/changes/changeset?_expected=0";
    v2(client, list).await.expect(200).json()["changes"][0]["last_modified"].clone()
}

#[tokio::test]
async fn what_is_signed_at_last_is_listed_though_nobody_asks_for_it_and_what_is_deleted_is_no_trouble() {
    let mut signer = Signer::start();
    let (bucket, uri, direct) = signer.bucket("late", "").await;
    let sidecar = signer.sidecar(&bucket);
    let (client, owner) = (sidecar.client(), sidecar.client().user("owner"));
    v2(&client, &format!("{}?_expected=0", changeset_of(&bucket, "c"))).await.expect(200);
    owner.put(&format!("{uri}/records/new")).await.expect(201);
    until_trouble_is(&sidecar, true).await;
    let held = listed(&client).await;
    signer.sign(&direct, &uri, "").await;
    eventually("the list to show what is signed", async || (listed(&client).await != held).then_some(()))
        .await;
    owner.put(&format!("{uri}/records/newer")).await.expect(201);
    until_trouble_is(&sidecar, true).await;
    owner.delete(&uri).await.expect(200);
    until_trouble_is(&sidecar, false).await;
}

#[tokio::test]
async fn a_chain_that_cannot_be_had_is_asked_for_now_and_then_however_many_read() {
    const READS: usize = 60;
    let mut signer = Signer::start();
    let pem = chain(&signer, "settings.example.org", 2100);
    let is_there = Arc::new(AtomicBool::new(false));
    let stub = {
        let is_there = Arc::clone(&is_there);
        Stub::start(move |mut upstream| {
            while upstream.read().is_some() {
                let (status, body) =
                    if is_there.load(Relaxed) { ("200 OK", &*pem) } else { ("503 Service Unavailable", "") };
                upstream.write(format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
            }
        })
    };
    let x5u = stub.url().replace("/v1", &format!("/{}.pem", "long".repeat(400)));
    let (bucket, ..) = signer.bucket("away", &x5u).await;
    let sidecar = sidecar_of(&[&bucket], &[VERIFIED, HERE, ADMIN]);
    let client = sidecar.client();
    let path = format!("{}?_expected=0", changeset_of(&bucket, "c"));
    let began = Instant::now();
    let reads = (0..READS).map(|_| async { v2(&client, &path).await.expect(200) });
    futures_util::future::join_all(reads).await;
    let complaint = why(&sidecar).await;
    let mut fetched = 0;
    while stub.has_next() {
        fetched += 1;
    }
    let most = 2 + began.elapsed().as_secs() / 2;
    assert!((1..=most).contains(&fetched), "{READS} reads led to {fetched} questions");
    assert!(
        complaint.contains("cannot be looked at") && !complaint.contains(&"long".repeat(40)),
        "{complaint}"
    );
    is_there.store(true, Relaxed);
    eventually("the signature to be good", async || {
        v2(&client, &path).await.expect(200);
        (!why(&sidecar).await.contains("does not verify")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn one_good_signature_of_several_is_enough() {
    let mut signer = Signer::start();
    let (bucket, uri, direct) = signer.bucket("several", "").await;
    let good = direct.get(&uri).await.expect(200).data()["signature"].clone();
    let bad = json!({"signature": "AAAA", "x5u": "", "mode": "other"});
    direct.patch(&uri).data(json!({"signature": bad, "signatures": [bad, good]})).await.expect(200);
    let sidecar = signer.sidecar(&bucket);
    let client = sidecar.client();
    let path = format!("{}?_expected=0", changeset_of(&bucket, "c"));
    let changeset = v2(&client, &path).await.expect(200).json();
    assert_eq!(changeset["metadata"]["signatures"], json!([bad, good]), "as they are");
    assert_eq!(changeset["metadata"]["signature"], bad, "and so is the single one");
    assert!(!why(&sidecar).await.contains("does not verify"));
    sidecar.client().user("owner").patch(&uri).data(json!({"signatures": [bad]})).await.expect(200);
    let kept = v2(&client, &path).await.expect(200).json();
    assert_eq!(kept["metadata"]["signatures"], json!([bad, good]));
    assert!(why(&sidecar).await.contains("does not verify"));
}

/// A chain of the signer's key and an authority, in PEM.
fn chain(signer: &Signer, name: &str, year: i32) -> String {
    let authority_key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.distinguished_name.push(rcgen::DnType::CommonName, "an authority");
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = authority.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let mut leaf = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    leaf.not_after = rcgen::date_time_ymd(year, 1, 1);
    leaf.signed_by(&signer.key, &issuer).unwrap().pem() + &certificate.pem()
}

#[tokio::test]
async fn a_signature_stands_on_the_chain_at_its_x5u() {
    const NAME: &str = "settings.example.org";
    let mut signer = Signer::start();
    for (name, year, good) in [(NAME, 2100, true), (NAME, 2020, false), ("other.example.org", 2100, false)] {
        let pem = chain(&signer, name, year);
        let stub = Stub::answering(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{pem}", pem.len()));
        let x5u = stub.url().replace("/v1", "/chains/leaf.pem");
        let (bucket, ..) = signer.bucket("chained", &x5u).await;
        let sidecar = sidecar_of(&[&bucket], &[VERIFIED, HERE, ADMIN, ("sidecar.signature_name", NAME)]);
        let client = sidecar.client();
        let changeset =
            v2(&client, &format!("{}?_expected=0", changeset_of(&bucket, "c"))).await.expect(200).json();
        assert_eq!(changeset["metadata"]["signatures"][0]["x5u"], json!(x5u), "it is left as it is");
        assert!(signer.is_good(&changeset));
        // Nothing better is kept, so it is given out. Bundles do without it.
        let hello = eventually("the signature to be looked at", async || {
            let why = why(&sidecar).await;
            (good || why.contains("does not verify")).then_some(why)
        })
        .await;
        assert_eq!(hello.contains("does not verify"), !good, "{name} {year}: {hello}");
        let resources = format!("/buckets/{bucket}");
        let settings = [
            SERVICE_ACCOUNT,
            ("sidecar.compat", "remote-settings"),
            ("changes.resources", &*resources),
            VERIFIED,
            HERE,
            ("sidecar.signature_name", NAME),
        ];
        let (said, status) = examined(&Kinto::shared().url(), &settings);
        let signatures = said["facts"]["signatures"].as_str().unwrap();
        let expected = if good { "good in 1 of 1 collections, until " } else { "good in 0 of 1 collections" };
        assert!(signatures.starts_with(expected), "{said:#}");
        assert_eq!((status, said.to_string().contains("does not verify")), (Some(i32::from(!good)), !good));
        if good {
            eventually("the end of the chain", async || {
                let end = sidecar.metric("kinto_sidecar_signature_chain_expiration_timestamp_seconds").await;
                (end == Some(4_102_444_800)).then_some(())
            })
            .await;
        }
    }
}

#[tokio::test]
async fn an_editor_has_nobody_ask_a_private_network() {
    let mut signer = Signer::start();
    let private = Stub::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned());
    let (bucket, uri, editor) = signer.bucket("evil", "").await;
    let sidecar = sidecar_of(&[&bucket], &[VERIFIED, ADMIN]);
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        let x5u = private.url().replace("127.0.0.1", host).replace("/v1", "/secret.pem");
        let signature = json!({"signature": "AAAA", "x5u": x5u, "mode": "p384ecdsa"});
        editor.patch(&uri).data(json!({"signature": signature})).await.expect(200);
        let path = format!("{}?_expected=0", changeset_of(&bucket, "c"));
        eventually("what was found of it", async || {
            v2(&sidecar.client(), &path).await.expect(200);
            let why = why(&sidecar).await;
            (why.contains("cannot be looked at") && why.contains(host)).then_some(())
        })
        .await;
        assert!(!private.has_next(), "{host} was asked");
    }
}

#[tokio::test]
async fn servers_that_an_editor_names_and_that_say_nothing_keep_no_readers_of_other_collections_waiting() {
    let mut signer = Signer::start();
    let silent = Stub::start(|mut upstream| while upstream.read().is_some() {});
    let (bucket, ..) = signer.bucket("good", "").await;
    let (evil, uri, editor) = signer.bucket("evil", "").await;
    let signature = |number: usize| {
        let x5u = silent.url().replace("/v1", &format!("/{number}"));
        json!({"signature": "AAAA", "x5u": x5u, "mode": "p384ecdsa"})
    };
    let signatures: Vec<Value> = (0..8).map(signature).collect();
    editor.patch(&uri).data(json!({"signature": signatures[0], "signatures": signatures})).await.expect(200);
    let settings = [("sidecar.signature_key", &*signer.public()), VERIFIED, HERE, ADMIN];
    let sidecar = sidecar_of(&[&bucket, &evil], &settings);
    let client = sidecar.client();
    let began = Instant::now();
    v2(&client, "/").await.expect(200);
    // What is asked of all eight together ends when one would.
    eventually("what was found of it", async || {
        why(&sidecar).await.contains("cannot be looked at").then_some(())
    })
    .await;
    assert!(began.elapsed().as_secs() < 15, "each of them was waited for");
    editor.put(&format!("{uri}/records/r")).await.expect(201);
    let mut named = 0;
    eventually("the change", async || {
        let asked = Instant::now();
        v2(&client, "/").await.expect(200);
        assert!(asked.elapsed().as_secs() < 4, "{:?}", asked.elapsed());
        let path = format!("{}?_expected=0", changeset_of(&bucket, "c"));
        let asked = Instant::now();
        v2(&client, &path).await.expect(200);
        assert!(asked.elapsed().as_secs() < 4, "{:?}", asked.elapsed());
        while silent.has_next() {
            named += 1;
        }
        (named > 8).then_some(())
    })
    .await;
}
