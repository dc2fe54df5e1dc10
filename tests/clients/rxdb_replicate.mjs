// Replicates the collection whose database URL is given into an RxDB in memory, as an application does, and live. Fails with
// the first assertion.

import assert from "node:assert/strict";
import { createRxDatabase } from "rxdb";
import { getFetchWithCouchDBAuthorization, replicateCouchDB } from "rxdb/plugins/replication-couchdb";
import { getRxStorageMemory } from "rxdb/plugins/storage-memory";
import { filter, firstValueFrom, timeout } from "rxjs";

const [server, bucket] = process.argv.slice(2);
const url = `${server}/buckets/${bucket}/collections/notes`;
const headers = { Authorization: "Basic " + btoa("alice:secret"), "Content-Type": "application/json" };
const send = async (method, id, data) => {
  const body = data && JSON.stringify({ data });
  const answer = await fetch(`${url}/records/${id}`, { method, headers, body });
  assert.equal(answer.ok, true);
};
for (let n = 0; n < 10; n++) await send("PUT", `r${n}`, { n });
await send("DELETE", "r3");

const database = await createRxDatabase({ name: "copy", storage: getRxStorageMemory(), multiInstance: false });
const properties = { id: { type: "string", maxLength: 100 }, n: { type: "number" } };
const schema = { version: 0, primaryKey: "id", type: "object", properties, required: ["id"] };
const { notes } = await database.addCollections({ notes: { schema } });
const replication = replicateCouchDB({
  replicationIdentifier: "notes",
  collection: notes,
  url: `${url}/`,
  fetch: getFetchWithCouchDBAuthorization("alice", "secret"),
  live: true,
  pull: { batchSize: 3 },
});
replication.error$.subscribe((error) => {
  console.error(error);
  process.exit(1);
});
await replication.awaitInitialReplication();
// Waits until these are the records, each with its number.
const has = (expected) => {
  const text = (documents) => documents.map(({ id, n }) => `${id}=${n}`).sort().join(" ");
  const found = notes.find().$.pipe(filter((documents) => text(documents) === expected), timeout(20000));
  return firstValueFrom(found);
};
await has("r0=0 r1=1 r2=2 r4=4 r5=5 r6=6 r7=7 r8=8 r9=9");
await send("PUT", "r1", { n: 100 });
await send("DELETE", "r2");
await send("DELETE", "r4");
await send("PUT", "new", { n: 10 });
await has("new=10 r0=0 r1=100 r5=5 r6=6 r7=7 r8=8 r9=9");
await send("PUT", "r2", { n: 200 });
await has("new=10 r0=0 r1=100 r2=200 r5=5 r6=6 r7=7 r8=8 r9=9");
process.exit(0);
