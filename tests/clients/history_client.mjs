// What an application does with kinto-http.js' history, through the sidecar whose API root is given; fails with the first assertion.

import assert from "node:assert/strict";
import KintoHttp from "kinto-http";
import KintoJs from "kinto/lib/cjs/http/index.js";

const [server, bucketName] = process.argv.slice(2);
const headers = { Authorization: "Basic " + btoa("alice:secret") };

// The client of its own package, and the newer one that is part of kinto.js: the latter asks for snapshots.
for (const [Client, suffix] of [[KintoHttp.default ?? KintoHttp, "a"], [KintoJs.default ?? KintoJs, "b"]]) {
  const client = new Client(server, { headers });
  const name = bucketName + suffix;
  await client.createBucket(name);
  const bucket = client.bucket(name);
  await bucket.createCollection("notes");
  const notes = bucket.collection("notes");
  await notes.batch((batch) => {
    for (let number = 0; number < 5; number++) batch.updateRecord({ id: `r${number}`, number });
  });
  await notes.updateRecord({ id: "r0", number: 100 });
  const moment = JSON.parse(await notes.getRecordsTimestamp());
  const before = (await notes.listRecords()).data;
  await notes.updateRecord({ id: "r1", number: 101 });
  await notes.deleteRecord("r2");
  await notes.updateRecord({ id: "r5", number: 5 });

  const said = ({ data }) => data.map((entry) => `${entry.action} ${entry.uri.replace(`/buckets/${name}`, "")}`);
  const history = await bucket.listHistory();
  assert.equal(history.data.length, 11);
  assert.deepEqual(said(history).slice(0, 3), [
    "create /collections/notes/records/r5",
    "delete /collections/notes/records/r2",
    "update /collections/notes/records/r1",
  ]);
  const filters = { collection_id: "notes", action: "update" };
  assert.deepEqual(said(await bucket.listHistory({ filters })), [
    "update /collections/notes/records/r1",
    "update /collections/notes/records/r0",
  ]);
  const first = await bucket.listHistory({ sort: "last_modified", limit: 2 });
  assert.deepEqual(said(first), ["create ", "create /collections/notes"]);
  assert.deepEqual(said(await first.next()), [
    "create /collections/notes/records/r0",
    "create /collections/notes/records/r1",
  ]);
  const since = String(history.data[1].last_modified);
  assert.deepEqual(said(await bucket.listHistory({ since })), said(history).slice(0, 1));
  await assert.rejects(bucket.listHistory({ filters: { unknown: 1 } }), /400/);

  const snapshot = await notes.listRecords({ at: Number(moment) });
  assert.deepEqual(snapshot.data, before);
}
