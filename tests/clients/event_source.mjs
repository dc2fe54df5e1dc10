// An EventSource that the feed leaves again and again is told of each change once. Fails with the first assertion.

import assert from "node:assert/strict";
import { EventSource } from "eventsource";

const [server, bucket] = process.argv.slice(2);
const url = `${server}/buckets/${bucket}/collections/notes`;
const headers = { Authorization: "Basic " + btoa("alice:secret"), "Content-Type": "application/json" };
const write = async (id) => {
  const answer = await fetch(`${url}/records/${id}`, { method: "PUT", headers, body: '{"data":{}}' });
  assert.equal(answer.ok, true);
};
const names = Array.from({ length: 9 }, (_, number) => `r${number}`);
for (const id of names.slice(0, 3)) await write(id);

const told = [];
let connections = 0;
await new Promise((resolve, reject) => {
  // The feed ends when nothing has come for so long, or after four changes.
  const events = new EventSource(`${url}/_changes?feed=eventsource&since=0&timeout=200&limit=4`, {
    fetch: (input, init) => fetch(input, { ...init, headers: { ...init.headers, Authorization: headers.Authorization } }),
  });
  events.addEventListener("open", async () => {
    connections += 1;
    if (connections === 2) for (const id of names.slice(3)) await write(id);
  });
  events.addEventListener("message", (event) => {
    const row = JSON.parse(event.data);
    assert.equal(event.lastEventId, String(row.seq));
    told.push(row.id);
    if (told.length === names.length) {
      events.close();
      resolve();
    }
  });
  setTimeout(() => reject(new Error(`told of ${told}`)), 25000).unref();
});
assert.deepEqual(told, names);
assert.ok(connections >= 3);
