// Replicates a collection into an RxDB in memory, live, while it is written to and connections are cut. When its input says
// so (a line with the API root of Kinto itself), it catches up, and compares the copy with what Kinto has.

import assert from "node:assert/strict";
import readline from "node:readline";
import { createRxDatabase } from "rxdb";
import { replicateCouchDB } from "rxdb/plugins/replication-couchdb";
import { getRxStorageMemory } from "rxdb/plugins/storage-memory";

const [server, path] = process.argv.slice(2);
const headers = { Authorization: "Basic " + btoa("alice:secret") };
const asked = [];
const watched = (url, options) => {
  if (String(url).includes("/_changes?")) asked.push(new URL(url).searchParams.get("since"));
  return fetch(url, { ...options, headers: { ...options?.headers, ...headers } });
};

const database = await createRxDatabase({ name: "copy", storage: getRxStorageMemory(), multiInstance: false });
const properties = { id: { type: "string", maxLength: 100 } };
const schema = { version: 0, primaryKey: "id", type: "object", properties, required: ["id"] };
const { records } = await database.addCollections({ records: { schema } });
const replication = replicateCouchDB({
  replicationIdentifier: "records",
  collection: records,
  url: `${server}${path}/`,
  fetch: watched,
  live: true,
  retryTime: 50,
  pull: { batchSize: 10 },
});
await replication.awaitInitialReplication();
console.log("begun");
const firstQuestions = asked.length;
const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const kinto = (await lines.next()).value;
const listed = await fetch(`${kinto}${path}/records`, { headers });
const versions = (all) => all.map(({ id, last_modified, n }) => `${id} ${last_modified} ${n}`).sort();
const wanted = versions((await listed.json()).data);
// What passed beside the server is found when it next asks for timestamps.
const until = Date.now() + 30000;
let found;
do {
  await new Promise((resolve) => setTimeout(resolve, 20));
  found = versions((await records.find().exec()).map((document) => document.toJSON()));
} while (found.join() !== wanted.join() && Date.now() < until);
assert.deepEqual(found, wanted);
assert.deepEqual(asked.slice(firstQuestions).filter((since) => since === "0"), [], "begun anew");
console.log(`${asked.length} questions`);
process.exit(0);
