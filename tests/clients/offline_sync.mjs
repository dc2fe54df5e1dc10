// Two kinto.js stores that synchronise with each other through the sidecar whose API root is given.

import assert from "node:assert/strict";
import "fake-indexeddb/auto";
import KintoModule from "kinto";

const Kinto = KintoModule.default ?? KintoModule;
const [remote, bucket] = process.argv.slice(2);
const headers = { Authorization: "Basic " + btoa("alice:secret") };
const store = (dbPrefix) => new Kinto({ remote, bucket, headers, adapterOptions: { dbName: dbPrefix } }).collection("notes");
const sync = async (notes, options) => {
  const result = await notes.sync(options);
  assert.deepEqual(result.errors, []);
  assert.deepEqual(result.conflicts, []);
  return result;
};
const titles = async (notes) => (await notes.list({ order: "title" })).data.map((note) => note.title);

const laptop = store("laptop");
const phone = store("phone");
const { data: first } = await laptop.create({ title: "a" });
await laptop.create({ title: "b" });
assert.equal((await sync(laptop)).published.length, 2);
assert.equal((await sync(phone)).created.length, 2);
assert.deepEqual(await titles(phone), ["a", "b"]);

await phone.update({ ...first, title: "c" }, { patch: true });
await phone.create({ title: "d" });
await sync(phone);
await sync(laptop);
assert.deepEqual(await titles(laptop), ["b", "c", "d"]);

await laptop.delete(first.id);
await sync(laptop);
const { lastModified } = await sync(phone, { expectedTimestamp: `"${laptop.lastModified}"` });
assert.equal(lastModified, laptop.lastModified);
assert.deepEqual(await titles(phone), ["b", "d"]);

// What is stored offline is what the changeset brings.
const answer = await fetch(`${remote}/buckets/${bucket}/collections/notes/changeset?_expected=${lastModified}`, { headers });
const { changes, timestamp } = await answer.json();
assert.equal(timestamp, lastModified);
assert.deepEqual(changes.map((row) => row.title).sort(), ["b", "d"]);
