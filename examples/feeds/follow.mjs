// Follows a collection with PouchDB, as if it were a database of CouchDB's.
//
//     npm install pouchdb
//     node follow.mjs http://localhost:8889/v1/buckets/blog/collections/articles [user password]

import PouchDB from "pouchdb";

const [url, username, password] = process.argv.slice(2);
const database = new PouchDB(url, username ? { auth: { username, password } } : {});

const { db_name, doc_count, update_seq } = await database.info();
console.log(`${db_name} has ${doc_count} records; following from ${update_seq}`);

const changes = database.changes({ live: true, since: update_seq, include_docs: true });
changes.on("change", ({ id, deleted, doc }) => console.log(deleted ? `${id} is gone` : `${id} is now`, doc));
changes.on("error", (error) => {
  console.error(error.reason ?? error);
  process.exitCode = 1;
});
process.on("SIGINT", () => changes.cancel());
