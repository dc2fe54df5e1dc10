//! Firefox itself, as it is released, before a sidecar: what it has is what Kinto has.
//!
//! Signatures are not looked at: the roots that it trusts are compiled in.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::bundles::attachments;
use super::{public_bucket, sidecar_of};
use crate::support::firefox::Firefox;
use crate::support::{Client, Kinto, unique};

const ATTACHMENT: &[u8] = b"an attachment";

/// Has Firefox do something with its client of the collection.
fn with_client(firefox: &mut Firefox, bucket: &str, body: &str) -> Value {
    firefox.run(&format!(
        "const client = RemoteSettings('c', {{ bucketName: '{bucket}' }});\n\
         client.verifySignature = false;\n{body}"
    ))
}

fn by_id(rows: Value) -> BTreeMap<String, Value> {
    let rows: Vec<Value> = serde_json::from_value(rows).unwrap();
    rows.into_iter().map(|row| (row["id"].as_str().unwrap().to_owned(), row)).collect()
}

/// Checks that what Firefox says that it has is what Kinto has.
async fn check(firefox: &mut Firefox, owner: &Client, bucket: &str) {
    let local =
        with_client(firefox, bucket, "return [await client.get(), await client.db.getLastModified()];");
    let list = owner.get(&format!("/buckets/{bucket}/collections/c/records")).await.expect(200);
    assert_eq!((by_id(local[0].clone()), &local[1]), (by_id(list.data()), &json!(list.timestamp())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn firefox_has_what_kinto_has_whichever_root_it_asks() {
    let stub = attachments(ATTACHMENT);
    let place = format!("{}/files", stub.url().trim_end_matches("/v1"));
    for root in ["v1", "v2"] {
        let bucket = unique("firefox");
        let direct = Kinto::shared().client().user("owner");
        public_bucket(&direct, &bucket, &["c", "other"]).await;
        let uri = format!("/buckets/{bucket}/collections/c");
        direct
            .patch(&uri)
            .data(json!({"flags": ["startup"], "attachment": {"bundle": true}}))
            .await
            .expect(200);
        let attachment = json!({
            "filename": "b.bin", "mimetype": "text/x-odd", "location": "a/b.bin",
            "hash": format!("{:x}", Sha256::digest(ATTACHMENT)), "size": ATTACHMENT.len(),
        });
        direct.put(&format!("{uri}/records/with")).data(json!({"attachment": attachment})).await.expect(201);
        let mut sidecar = sidecar_of(&[&bucket], &[("sidecar.attachments_upstream", &place)]);
        let address = format!("http://{}", sidecar.address());
        sidecar.restart_with(&[("sidecar.public_url", &address)]);
        let Some(mut firefox) = Firefox::start(&format!("{address}/{root}")) else { return };
        let owner = sidecar.client().user("owner");

        // A fresh one is given all that it begins with in one file.
        let bundle = firefox.run("return await Utils.fetchChangesetsBundle();");
        assert_eq!(bundle.as_array().unwrap().len(), 1, "{bundle}");
        assert_eq!(bundle[0]["metadata"]["id"], "c");
        let list = direct.get(&format!("{uri}/records")).await.expect(200);
        assert_eq!(by_id(bundle[0]["changes"].clone()), by_id(list.data()));
        check(&mut firefox, &direct, &bucket).await;

        // What is new since is all that it is told of.
        for round in 0..2 {
            owner.delete(&format!("{uri}/records/one")).await.expect(200);
            owner.put(&format!("{uri}/records/two")).data(json!({"text": round})).await.expect(200);
            owner.put(&format!("{uri}/records/new{round}")).await.expect(201);
            let told = with_client(
                &mut firefox,
                &bucket,
                "const told = [];
                 const listen = ({ data: { created, updated, deleted } }) =>
                   told.push([created, updated.map(pair => pair.new), deleted].map(rows => rows.map(row => row.id)));
                 client.on('sync', listen);
                 await RemoteSettings.pollChanges({ trigger: 'manual' });
                 client.off('sync', listen);
                 return told;",
            );
            assert_eq!(told, json!([[[format!("new{round}")], ["two"], ["one"]]]));
            check(&mut firefox, &direct, &bucket).await;
            owner.put(&format!("{uri}/records/one")).await.expect(201);
            let again = "await RemoteSettings.pollChanges({ trigger: 'manual' });";
            with_client(&mut firefox, &bucket, again);
            check(&mut firefox, &direct, &bucket).await;
        }

        // Attachments, one by one and all in one file.
        let fetched = with_client(
            &mut firefox,
            &bucket,
            "const record = (await client.get()).find(({ attachment }) => attachment);
             const { buffer, _source } = await client.attachments.download(record, { useCache: false });
             return [new TextDecoder().decode(buffer), _source, await client.attachments.cacheAll(true)];",
        );
        assert_eq!(fetched, json!([std::str::from_utf8(ATTACHMENT).unwrap(), "remote_match", true]));
    }
}
