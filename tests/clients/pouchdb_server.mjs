// What pouchdb-server is, in memory: serves until its input ends, and says on which port.

import express from "express";
import expressPouchDB from "express-pouchdb";
import PouchDB from "pouchdb";
import memory from "pouchdb-adapter-memory";

PouchDB.plugin(memory);
// A default adapter would hold for databases of other servers, too.
PouchDB.preferredAdapters.splice(0, Infinity, "memory");
const application = express();
application.use("/", expressPouchDB(PouchDB, { inMemoryConfig: true, logPath: process.argv[2] }));
const listener = application.listen(0, "127.0.0.1", () => console.log(listener.address().port));
process.stdin.on("end", () => process.exit(0)).resume();
