// Replicates a collection into a PouchDB in memory, live, while it is written to and connections are cut. When its input says
// so (a line with the API root of Kinto itself), it catches up, and compares the copy with what Kinto has.

import assert from "node:assert/strict";
import readline from "node:readline";
import PouchDB from "pouchdb";
import memory from "pouchdb-adapter-memory";

PouchDB.plugin(memory);
// PouchDB leaves a question at the opening of a database to itself: no connection is no reason to end.
process.on("unhandledRejection", (error) => {
  if (error?.type !== "system") throw error;
});
const [server, path] = process.argv.slice(2);
const headers = { Authorization: "Basic " + btoa("alice:secret") };
const given = new Map();
const asked = [];
// Whenever something breaks off, PouchDB goes back to the last checkpoint that it has at both ends, or to the beginning.
let breaks = 0;
const breakOff = () => (breaks += 1);
// What passes is looked at, and passes as it is.
const watched = async (url, options) => {
  const answer = await PouchDB.fetch(url, options).catch((error) => {
    breakOff();
    throw error;
  });
  if (!answer.ok && answer.status !== 404) breakOff();
  if (String(url).includes("/_changes?")) asked.push(Number(new URL(url).searchParams.get("since")));
  if (String(url).includes("/_bulk_get") && answer.ok) {
    const text = await answer.text().catch((error) => {
      breakOff();
      throw error;
    });
    for (const { docs } of JSON.parse(text).results) {
      for (const { ok } of docs) {
        const version = `${ok._id} ${ok._rev}`;
        given.set(version, (given.get(version) ?? 0) + 1);
      }
    }
    // A copy of the body that breaks off would be an error that nobody catches.
    return new answer.constructor(text, { status: answer.status, headers: answer.headers });
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
const ended = new Promise((resolve) => live.on("complete", resolve));
live.cancel();
await ended;
breakOff();
const listed = await fetch(`${kinto}${path}/records`, { headers });
const expected = new Map((await listed.json()).data.map((record) => [record.id, record]));
const wanted = new Map([...expected].map(([id, record]) => [id, record.last_modified]));
// What passed beside the server is found when it next asks for timestamps.
const until = Date.now() + 10000;
for (;;) {
  const last = await copy.replicate.from(open());
  assert.equal(last.ok, true);
  const { rows } = await copy.allDocs({ include_docs: true });
  const has = new Map(rows.map(({ id, doc }) => [id, doc.last_modified]));
  if (has.size === wanted.size && [...wanted].every(([id, modified]) => has.get(id) === modified)) break;
  if (Date.now() > until) {
    for (const [id, modified] of wanted) {
      if (has.get(id) === modified) continue;
      const local = await copy.get(id, { revs: true, open_revs: "all" }).catch((error) => error);
      console.error("has not", id, modified, JSON.stringify(local));
      const row = await fetch(`${server}${path}/_changes?doc_ids=${JSON.stringify([id])}&filter=_doc_ids`, { headers });
      console.error(await row.text());
    }
    break;
  }
}

const { rows } = await copy.allDocs({ include_docs: true, conflicts: true });
for (const { id, doc } of rows) {
  assert.equal(doc._conflicts, undefined, `${id} has conflicts`);
  const { _id, _rev, ...record } = doc;
  const { _own, ...plain } = expected.get(id) ?? assert.fail(`${id} is gone`);
  assert.deepEqual(record, plain);
  expected.delete(id);
}
assert.deepEqual([...expected.keys()], [], "not copied");
const again = [...given].filter(([, times]) => times > 1 + breaks);
assert.deepEqual(again, [], "given again, though nothing broke off");
assert.deepEqual(asked.slice(firstQuestions).filter((since) => since === 0), [], "begun anew");
console.log(`${given.size} versions in ${asked.length} questions`);
process.exit(0);
