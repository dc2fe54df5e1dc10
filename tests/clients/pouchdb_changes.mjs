// What an application does with PouchDB's changes(), on the collection whose database URL is given; it writes through
// Kinto's API. Fails with the first assertion.

import assert from "node:assert/strict";
import PouchDB from "pouchdb";

const [server, bucket] = process.argv.slice(2);
const url = `${server}/buckets/${bucket}/collections/notes`;
const headers = { Authorization: "Basic " + btoa("alice:secret"), "Content-Type": "application/json" };
const write = async (id, data) => {
  const answer = await fetch(`${url}/records/${id}`, { method: "PUT", headers, body: JSON.stringify({ data }) });
  assert.equal(answer.ok, true);
  return (await answer.json()).data.last_modified;
};
const remove = (id) => fetch(`${url}/records/${id}`, { method: "DELETE", headers });
const open = () => new PouchDB(url, { auth: { username: "alice", password: "secret" } });
const seqs = {};
for (let number = 0; number < 60; number++) {
  seqs[number] = await write(`r${number}`, { number, kind: number % 2 ? "odd" : "even" });
}

const database = open();
const info = await database.info();
assert.deepEqual([info.doc_count, info.update_seq, info.db_name], [60, seqs[59], "notes"]);

const all = await database.changes({ since: 0 });
assert.deepEqual(all.results.map((row) => row.id), Array.from({ length: 60 }, (_, number) => `r${number}`));
assert.equal(all.last_seq, seqs[59]);
const some = await database.changes({ since: seqs[9], limit: 30, include_docs: true });
assert.deepEqual(some.results.map((row) => row.doc.number), Array.from({ length: 30 }, (_, number) => number + 10));
const newest = await database.changes({ descending: true, limit: 2 });
assert.deepEqual(newest.results.map((row) => row.id), ["r59", "r58"]);
const chosen = await database.changes({ doc_ids: ["r4", "r2"] });
assert.deepEqual(chosen.results.map((row) => row.id), ["r2", "r4"]);
const odd = await database.changes({ selector: { kind: "odd", number: { $gt: 50 } } });
assert.deepEqual(odd.results.map((row) => row.id), ["r51", "r53", "r55", "r57", "r59"]);
// What an application adds to its requests is no filter; what it means as one is.
const plain = await database.changes({ since: 0, query_params: { access_token: "x", kind: "none" } });
assert.equal(plain.results.length, 60);
// PouchDB makes `_kinto/_kinto` of its own `filter`.
const named = await database.changes({ since: seqs[50], query_params: { filter: "_kinto", kind: "odd" } });
assert.deepEqual(named.results.map((row) => row.id), ["r51", "r53", "r55", "r57", "r59"]);

// Follows until it was told of `count` changes.
const follow = (options, count, then) =>
  new Promise((resolve, reject) => {
    const told = [];
    const changes = open().changes({ live: true, heartbeat: 500, ...options });
    changes.on("error", reject);
    changes.on("change", (row) => {
      told.push(row);
      if (told.length === count) changes.cancel();
    });
    changes.on("complete", () => resolve(told));
    setTimeout(() => reject(new Error(`told of ${told.length} of ${count}`)), 20000).unref();
    then?.();
  });

const writeLater = async (first, count) => {
  await new Promise((resolve) => setTimeout(resolve, 500));
  for (let number = first; number < first + count; number++) await write(`r${number}`, { number, kind: "late" });
};
const live = await follow({ since: "now", include_docs: true }, 5, () => writeLater(100, 5));
assert.deepEqual(live.map((row) => row.doc.number), [100, 101, 102, 103, 104]);

// Cut off and resumed, it is told of each change once.
const told = [];
let since = seqs[59];
for (const part of [2, 3, 4]) {
  const rows = await follow({ since }, part, () => (part === 4 ? writeLater(105, 4) : undefined));
  told.push(...rows.map((row) => row.id));
  since = rows.at(-1).seq;
}
assert.deepEqual(told, Array.from({ length: 9 }, (_, number) => `r${number + 100}`));

const selected = await follow({ since: "now", selector: { kind: "late" } }, 1, async () => {
  await new Promise((resolve) => setTimeout(resolve, 500));
  await write("other", { kind: "early" });
  await write("wanted", { kind: "late" });
});
assert.deepEqual(selected.map((row) => row.id), ["wanted"]);
const [deleted] = await follow({ since: "now", include_docs: true }, 1, () => setTimeout(() => remove("wanted"), 500));
assert.deepEqual([deleted.id, deleted.deleted, deleted.doc._deleted], ["wanted", true, true]);

await assert.rejects(database.changes({ since: 0, filter: "app/none" }), (error) => error.status === 404);
