"""What applications do with CouchDB's Python clients, on the collection whose API root and bucket are given.

Fails with the first assertion.
"""

import base64
import json
import sys
import threading
import time
import urllib.request

import couchdb
from ibmcloudant.cloudant_v1 import CloudantV1
from ibmcloudant.features.changes_follower import ChangesFollower
from ibm_cloud_sdk_core.authenticators import BasicAuthenticator

server, bucket = sys.argv[1:]
collections = f"{server}/buckets/{bucket}/collections"
authorization = "Basic " + base64.b64encode(b"alice:secret").decode()


def write(name):
    request = urllib.request.Request(
        f"{collections}/notes/records/{name}",
        data=json.dumps({"data": {"name": name}}).encode(),
        method="PUT",
        headers={"Authorization": authorization, "Content-Type": "application/json"},
    )
    urllib.request.urlopen(request).read()


def write_later(names):
    def run():
        time.sleep(1)
        for name in names:
            write(name)

    threading.Thread(target=run, daemon=True).start()


names = [f"r{number:02}" for number in range(20)]
for name in names:
    write(name)

service = CloudantV1(authenticator=BasicAuthenticator("alice", "secret"))
service.set_service_url(collections)
follower = ChangesFollower(service, db="notes", include_docs=True)
assert [item.id for item in follower.start_one_off()] == names

limited = ChangesFollower(service, db="notes", limit=3)
assert [item.id for item in limited.start_one_off()] == names[:3]

selected = ChangesFollower(service, db="notes", filter="_selector", selector={"name": {"$gt": "r16"}})
assert [item.id for item in selected.start_one_off()] == names[17:]

later = [f"s{number:02}" for number in range(5)]
write_later(later)
live = ChangesFollower(service, db="notes")
told = []
for item in live.start():
    told.append(item.id)
    if len(told) == len(later):
        live.stop()
assert told == later, told

database = couchdb.Database(f"{collections}/notes")
database.resource.credentials = ("alice", "secret")
page = database.changes(since=0, limit=2)
assert [row["id"] for row in page["results"]] == names[:2], page
rows = list(database.changes(feed="continuous", since=0, timeout=500, include_docs=True))
assert [row["id"] for row in rows if "id" in row] == names + later, rows
write_later(["t"])
rows = list(database.changes(feed="continuous", since="now", heartbeat=200, limit=1))
assert [row["id"] for row in rows if "id" in row] == ["t"], rows
