"""What an application does with kinto-http, through the sidecar whose API root is given; ends with an assertion that fails."""

import sys

import kinto_http

server, bucket = sys.argv[1:]
client = kinto_http.Client(server_url=server, auth=("alice", "secret"), bucket=bucket, collection="notes")
anonymous = kinto_http.Client(server_url=server, bucket=bucket, collection="notes")

changes = client.server_info()["capabilities"]["changes"]
assert changes["collections"] == [f"/buckets/{bucket}"], changes

assert anonymous.get_records(bucket="monitor", collection="changes") == []

client.create_bucket(permissions={"read": ["system.Everyone"]})
client.create_collection()
with client.batch() as batch:
    for number in range(30):
        batch.create_record(id=f"r{number}", data={"number": number})
assert len(client.get_records()) == 30

client.update_record(id="r0", data={"number": 100})
client.patch_record(id="r1", data={"colour": "red"})
client.delete_record(id="r2")
# The client remembers the timestamp of its last list; a new one has to ask.
timestamp = int(client.clone().get_records_timestamp().strip('"'))

monitored = anonymous.get_records(bucket="monitor", collection="changes")
assert [(entry["bucket"], entry["collection"], entry["last_modified"]) for entry in monitored] == [
    (bucket, "notes", timestamp)
], monitored
assert int(anonymous.clone().get_records_timestamp(bucket="monitor", collection="changes").strip('"')) == timestamp
assert anonymous.get_records(bucket="monitor", collection="changes", _since=str(timestamp)) == []

for asked in ({}, {"bust_cache": True}):
    changeset = anonymous.get_changeset(bucket=bucket, collection="notes", **asked)
    assert changeset["timestamp"] == timestamp, changeset
    assert changeset["metadata"]["id"] == "notes", changeset
    rows = {row["id"]: row for row in changeset["changes"]}
    assert len(rows) == 29 and rows["r0"]["number"] == 100 and rows["r1"]["colour"] == "red", rows
    monitor = anonymous.get_changeset(bucket="monitor", collection="changes", **asked)
    assert [entry["last_modified"] for entry in monitor["changes"]] == [timestamp], monitor

before = rows["r29"]["last_modified"]
delta = anonymous.get_changeset(bucket=bucket, collection="notes", _since=f'"{before}"', bust_cache=True)
assert [row["id"] for row in delta["changes"]] == ["r2", "r1", "r0"], delta
assert delta["changes"][0]["deleted"] is True, delta

client.delete_records()
emptied = anonymous.get_changeset(bucket=bucket, collection="notes", bust_cache=True)
assert emptied["timestamp"] > timestamp and emptied["changes"] == [], emptied
client.delete_collection()
assert anonymous.get_records(bucket="monitor", collection="changes") == []
