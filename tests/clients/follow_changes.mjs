// What an application does with follow and with cloudant-follow, on the collection whose database URL is given: they ask for
// `{database}//_changes` where that URL ends in a slash. Fails with the first assertion.

import assert from "node:assert/strict";
import cloudantFollow from "cloudant-follow";
import follow from "follow";

const [server, bucket] = process.argv.slice(2);
const path = `buckets/${bucket}/collections/notes`;
const headers = { Authorization: "Basic " + btoa("alice:secret"), "Content-Type": "application/json" };
const write = async (id) => {
  const answer = await fetch(`${server}/${path}/records/${id}`, { method: "PUT", headers, body: '{"data":{}}' });
  assert.equal(answer.ok, true);
};
const db = `${server.replace("://", "://alice:secret@")}/${path}/`;
let last = 0;
for (const { Feed } of [follow, cloudantFollow]) {
  const first = last;
  while (last < first + 3) await write(`r${++last}`);
  const told = await new Promise((resolve, reject) => {
    const ids = [];
    const feed = new Feed({ db, include_docs: true, since: 0 });
    feed.on("error", reject);
    feed.on("confirm", () => write(`r${++last}`));
    feed.on("change", ({ id, doc }) => {
      assert.equal(doc._id, id);
      ids.push(id);
      if (id !== `r${first + 4}`) return;
      feed.stop();
      resolve(ids);
    });
    feed.follow();
  });
  assert.deepEqual(told, Array.from({ length: last }, (_, n) => `r${n + 1}`));
}
process.exit(0);
