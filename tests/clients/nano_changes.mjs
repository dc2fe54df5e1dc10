// What an application does with nano's feeds, on the collection whose database URL is given. Fails with the first
// assertion.

import assert from "node:assert/strict";
import Nano from "nano";

const [server, bucket] = process.argv.slice(2);
const url = `${server}/buckets/${bucket}/collections/notes`;
const headers = { Authorization: "Basic " + btoa("alice:secret"), "Content-Type": "application/json" };
const write = async (id, data) => {
  const answer = await fetch(`${url}/records/${id}`, { method: "PUT", headers, body: JSON.stringify({ data }) });
  assert.equal(answer.ok, true);
};
const open = () =>
  Nano({
    url: `${server.replace("://", "://alice:secret@")}/buckets/${bucket}/collections`,
    parseUrl: false,
  }).use("notes");
const names = (count, first = 0) => Array.from({ length: count }, (_, number) => `r${number + first}`);
for (const id of names(30)) await write(id, { id });

const page = await open().changes({ limit: 2, since: 0 });
assert.deepEqual(page.results.map((row) => row.id), ["r0", "r1"]);
assert.equal(page.pending, 28);

const collect = (emitter, event, end) =>
  new Promise((resolve, reject) => {
    const told = [];
    emitter.on(event, (rows) => told.push(...[rows].flat()));
    emitter.on(end, () => resolve(told.map((row) => row.id)));
    emitter.on("error", reject);
  });

const spooled = await collect(open().changesReader.spool({ since: 0, batchSize: 4 }), "batch", "end");
assert.deepEqual(spooled, names(30));
const caught = await collect(open().changesReader.get({ since: 0, batchSize: 7, timeout: 500 }), "batch", "end");
assert.deepEqual(caught, names(30));

const lines = await new Promise((resolve, reject) => {
  let text = "";
  const stream = open().changesAsStream({ feed: "continuous", since: 0, timeout: 500 });
  stream.on("data", (data) => (text += data));
  stream.on("end", () => resolve(text.split("\n").filter(Boolean).map((line) => JSON.parse(line))));
  stream.on("error", reject);
});
assert.deepEqual(lines.slice(0, -1).map((row) => row.id), names(30));
assert.equal(lines.at(-1).pending, 0);

// Follows `now` until it was told of five changes, stopping and going on between.
const reader = open().changesReader;
const told = [];
await new Promise((resolve, reject) => {
  const changes = reader.start({ since: "now", batchSize: 2, includeDocs: true });
  changes.on("change", (row) => {
    told.push(row.doc.id);
    if (told.length === 5) resolve();
  });
  changes.on("error", reject);
  setTimeout(async () => {
    for (const id of names(5, 100)) await write(id, { id });
  }, 500);
});
reader.stop();
assert.deepEqual(told, names(5, 100));
process.exit(0);
