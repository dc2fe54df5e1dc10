// Replicates a collection into a PouchDB in memory, live, while it is written to and connections are cut. When its input says
// so (a line with the API root of Kinto itself), it catches up, and compares the copy with what Kinto has.

import assert from "node:assert/strict";
import readline from "node:readline";
import PouchDB from "pouchdb";
import memory from "pouchdb-adapter-memory";

PouchDB.plugin(memory);
const [server, path] = process.argv.slice(2);
const headers = { Authorization: "Basic " + btoa("alice:secret") };
const given = new Map();
const asked = [];
// What passes is looked at, and passes as it is.
const watched = async (url, options) => {
  const answer = await PouchDB.fetch(url, options);
  if (String(url).includes("/_changes?")) asked.push(Number(new URL(url).searchParams.get("since")));
  if (String(url).includes("/_bulk_get") && answer.ok) {
    for (const { docs } of (await answer.clone().json()).results) {
      for (const { ok } of docs) {
        const version = `${ok._id} ${ok._rev}`;
        given.set(version, (given.get(version) ?? 0) + 1);
      }
    }
  }
  return answer;
};
const open = () =>
  new PouchDB(server + path, { auth: { username: "alice", password: "secret" }, fetch: watched });
const copy = new PouchDB("copy", { adapter: "memory" });

await copy.replicate.from(open());
console.log("begun");
const firstQuestions = asked.length;
const live = copy.replicate.from(open(), { live: true, retry: true, back_off_function: () => 50 });
live.on("error", (error) => {
  console.error("live", error);
  process.exit(1);
});
const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const kinto = (await lines.next()).value;
live.cancel();
const last = await copy.replicate.from(open());
assert.equal(last.ok, true);

const listed = await fetch(`${kinto}${path}/records`, { headers });
const expected = new Map((await listed.json()).data.map((record) => [record.id, record]));
const { rows } = await copy.allDocs({ include_docs: true, conflicts: true });
for (const { id, doc } of rows) {
  assert.equal(doc._conflicts, undefined, `${id} has conflicts`);
  const { _id, _rev, ...record } = doc;
  const { _own, ...plain } = expected.get(id) ?? assert.fail(`${id} is gone`);
  assert.deepEqual(record, plain);
  expected.delete(id);
}
assert.deepEqual([...expected.keys()], [], "not copied");
const twice = [...given].filter(([, times]) => times > 1);
assert.deepEqual(twice, [], "given twice");
assert.deepEqual(asked.slice(firstQuestions).filter((since) => since === 0), [], "begun anew");
console.log(`${given.size} versions in ${asked.length} questions`);
process.exit(0);
