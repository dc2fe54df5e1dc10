// What Kinto Admin asks for: its History tabs, an entry's difference to the one before, and the comparison of a collection with
// what it was. Through the sidecar whose API root is given, with entries that were made by undoing; fails with the first assertion.

import assert from "node:assert/strict";
import Kinto from "kinto/lib/cjs/http/index.js";

const [server, bid] = process.argv.slice(2);
const headers = { Authorization: "Basic " + btoa("alice:secret") };
const client = new (Kinto.default ?? Kinto)(server, { headers, timeout: 30000, retry: 1 });
const MAX_PER_PAGE = 200;

// Three records, of which one is changed and one is deleted; and both is undone.
await client.createBucket(bid);
const bucket = client.bucket(bid);
await bucket.createGroup("editors", ["somebody"]);
await bucket.createCollection("notes");
const notes = bucket.collection("notes");
for (const id of ["a", "b", "c"]) await notes.createRecord({ id, title: "old" });
await notes.updateRecord({ id: "a", title: "new" });
await notes.deleteRecord("b");
await notes.setData({ status: "to-sign" }, { patch: true });
const newest = async (id) => {
  const uri = `/buckets/${bid}/collections/notes/records/${id}`;
  return (await bucket.listHistory({ filters: { uri }, limit: 1 })).data[0];
};
const entry = await newest("a");
for (const [{ id }, reason] of [[await newest("b"), "a slip"], [entry, "another slip"]]) {
  const answer = await fetch(`${server}/buckets/${bid}/history/revert`, {
    method: "POST",
    headers: { ...headers, "Content-Type": "application/json" },
    body: JSON.stringify({ entries: [id], reason }),
  });
  assert.match(await answer.text(), /"status":"done"/);
}

// The server is asked what it can.
const { capabilities } = await client.fetchServerInfo();
assert.ok(capabilities.history);
assert.deepEqual(capabilities.history.excluded_resources ?? [], []);

// What each row of its table shows of an entry, with nothing that it would trip over.
const said = (entries) =>
  entries.map((entry) => {
    assert.equal(typeof entry.last_modified, "number");
    assert.match(entry.user_id, /^basicauth:/);
    for (const principals of Object.values(entry.target.permissions)) assert.ok(Array.isArray(principals));
    return `${entry.action} ${entry.resource_name} ${entry.target.data.id}`;
  });
const list = (filters, options = {}) => bucket.listHistory({ limit: MAX_PER_PAGE, ...options, filters });
// Filters that were not chosen are sent as nothing.
const unset = { resource_name: undefined, "gt_target.data.last_modified": undefined };

const ofBucket = await list({ ...unset, exclude_resource_name: "record" }, { sort: "-last_modified" });
assert.deepEqual(said(ofBucket.data), [
  "update collection notes",
  "create collection notes",
  "create group editors",
  `create bucket ${bid}`,
]);
const ofCollection = await list({ collection_id: "notes", ...unset });
assert.deepEqual(said(ofCollection.data).slice(0, 4), [
  "update record a",
  "create record b",
  "update collection notes",
  "delete record b",
]);
assert.equal(ofCollection.data.length, 9);
const [reverting] = ofCollection.data;
assert.deepEqual([reverting.reason, reverting.reverts], ["another slip", [entry.id]]);
const since = { collection_id: "notes", resource_name: "record", "gt_target.data.last_modified": entry.target.data.last_modified };
assert.deepEqual(said((await list(since)).data), ["update record a", "create record b", "delete record b"]);
assert.deepEqual((await list({ ...since, exclude_user_id: reverting.user_id })).data, []);
assert.deepEqual((await list({ ...since, exclude_user_id: `x,${reverting.user_id}` })).data, []);
assert.equal((await list({ ...since, like_user_id: "basicauth:*" })).data.length, 3);
assert.deepEqual(said((await list({ group_id: "editors", ...unset })).data), ["create group editors"]);
const ofRecord = await list({ ...unset, collection_id: "notes", record_id: "b" });
assert.deepEqual(said(ofRecord.data), ["create record b", "delete record b", "create record b"]);

// Page by page.
const page = await list({ collection_id: "notes" }, { limit: 5 });
assert.ok(page.hasNextPage);
assert.deepEqual([...page.data, ...(await page.next()).data], ofCollection.data);

// The entry before one that undid something, and what changed between both.
const previous = (await bucket.listHistory({ filters: { uri: reverting.uri, _before: reverting.last_modified }, limit: 1 })).data;
assert.deepEqual(previous.map(({ id }) => id), [entry.id]);
assert.deepEqual([previous[0].target.data.title, reverting.target.data.title], ["new", "old"]);

// Approvals, and the comparison with the moment of an entry.
const approvals = await bucket.listHistory({
  limit: 20,
  filters: { collection_id: "notes", resource_name: "collection", "target.data.status": "to-sign", _sort: "-last_modified" },
});
assert.equal(approvals.data.length, 1);
const titles = async (options) => {
  const records = await notes.listRecords({ sort: "id", limit: MAX_PER_PAGE, ...options });
  return Object.fromEntries(records.data.map(({ id, title }) => [id, title]));
};
const all = { a: "old", b: "old", c: "old" };
assert.deepEqual(await titles(), all);
assert.deepEqual(await titles({ at: reverting.last_modified }), all);
assert.deepEqual(await titles({ at: ofRecord.data[1].last_modified }), { a: "new", c: "old" });
assert.deepEqual(await titles({ at: entry.last_modified }), { a: "new", b: "old", c: "old" });
assert.equal(await notes.getTotalRecords(), 3);
assert.ok((await client.listBuckets()).data.some(({ id }) => id === bid));
