// What an application does with kinto-http.js, through the sidecar whose API root is given; fails with the first assertion.

import assert from "node:assert/strict";
import KintoHttp from "kinto-http";

const KintoClient = KintoHttp.default ?? KintoHttp;
const [server, bucketName] = process.argv.slice(2);
const headers = { Authorization: "Basic " + btoa("alice:secret") };
const client = new KintoClient(server, { headers });

const { capabilities } = await client.fetchServerInfo();
assert.deepEqual(capabilities.changes.collections, [`/buckets/${bucketName}`]);
const anonymous = new KintoClient(server);
const monitor = anonymous.bucket("monitor").collection("changes");
assert.deepEqual((await monitor.listRecords()).data, []);

await client.createBucket(bucketName, { permissions: { read: ["system.Everyone"] } });
const bucket = client.bucket(bucketName);
await bucket.createCollection("notes");
const notes = bucket.collection("notes");
await notes.batch((batch) => {
  for (let number = 0; number < 30; number++) batch.updateRecord({ id: `r${number}`, number });
});
assert.equal(await notes.getTotalRecords(), 30);
await notes.updateRecord({ id: "r0", number: 100 });
await notes.deleteRecord("r2");
const timestamp = JSON.parse(await notes.getRecordsTimestamp());

const listed = await monitor.listRecords({ filters: { collection: "notes" } });
assert.deepEqual(
  listed.data.map((entry) => [entry.bucket, entry.collection, entry.last_modified]),
  [[bucketName, "notes", Number(timestamp)]],
);
const newer = await monitor.listRecords({ since: timestamp.toString() });
assert.deepEqual(newer.data, []);

const changeset = (query) =>
  anonymous.execute({ path: `/buckets/${bucketName}/collections/notes/changeset?${query}`, headers: {} });
const whole = await changeset(`_expected=${timestamp}`);
assert.equal(whole.timestamp, Number(timestamp));
assert.equal(whole.changes.length, 29);
const first = whole.changes.find((row) => row.id === "r29").last_modified;
const delta = await changeset(`_expected=${timestamp}&_since=%22${first}%22`);
assert.deepEqual(delta.changes.map((row) => row.id), ["r2", "r0"]);

await assert.rejects(notes.updateRecord({ id: "r1", number: 1, last_modified: first - 1000 }, { safe: true }), /412/);
