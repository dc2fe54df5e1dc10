//! Signatures: what does not verify is not published while a good one is kept.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use super::{changeset_of, public_bucket, sidecar_of, v2};
use crate::support::stub::Stub;
use crate::support::{Client, Environment, Kinto, Sidecar, environment, eventually, tests_folder, unique};

/// Signs, and verifies, in Python.
struct Signer {
    process: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    folder: tempfile::TempDir,
    key: rcgen::KeyPair,
}

impl Signer {
    fn start() -> Self {
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

    fn public(&self) -> String {
        self.folder.path().join("public.pem").display().to_string()
    }

    fn ask(&mut self, request: Value) -> Value {
        writeln!(self.stdin, "{request}").unwrap();
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn is_good(&mut self, changeset: &Value) -> bool {
        self.ask(json!({ "changeset": changeset })) == json!(true)
    }

    /// Signs a collection as it is now.
    async fn sign(&mut self, owner: &Client, uri: &str, x5u: &str) {
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

#[tokio::test]
async fn every_changeset_verifies_while_records_and_signatures_change() {
    let mut signer = Signer::start();
    let bucket = unique("signed");
    let direct = Kinto::shared().client().user("owner");
    public_bucket(&direct, &bucket, &["c"]).await;
    let uri = format!("/buckets/{bucket}/collections/c");
    let odd = json!({"text": "é \"\\ \u{1f600} </x>", "n": 7, "nested": {"b": [null, true], "a": {}}});
    direct.put(&format!("{uri}/records/odd")).data(odd).await.expect(201);
    signer.sign(&direct, &uri, "").await;
    let public = signer.public();
    let settings = [
        ("sidecar.verify_signatures", "true"),
        ("sidecar.signature_key", &*public),
        ("sidecar.admin_listen", "127.0.0.1:0"),
    ];
    let sidecar = sidecar_of(&[&bucket], &settings);
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
        let listed = v2(&client, list).await.expect(200).json();
        assert_eq!(
            listed["changes"][0]["last_modified"], last["timestamp"],
            "what is listed is what is published"
        );
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
    let metrics =
        Client::new(&sidecar.admin().unwrap()).request_target(http::Method::GET, "/metrics").await.text();
    let counted = |outcome: &str| {
        let name = format!("kinto_sidecar_signatures_total{{outcome=\"{outcome}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&name)?.parse::<u64>().ok()).unwrap()
    };
    assert!(counted("good") > rounds && counted("bad") >= rounds, "{metrics}");
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
        let bucket = unique("chained");
        let owner = Kinto::shared().client().user("owner");
        public_bucket(&owner, &bucket, &["c"]).await;
        let uri = format!("/buckets/{bucket}/collections/c");
        signer.sign(&owner, &uri, &x5u).await;
        let settings = [
            ("sidecar.verify_signatures", "true"),
            ("sidecar.signature_name", NAME),
            ("sidecar.admin_listen", "127.0.0.1:0"),
        ];
        let sidecar = sidecar_of(&[&bucket], &settings);
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
    }
}
