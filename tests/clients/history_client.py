"""What an application does with kinto-http's history, through the sidecar whose API root is given; ends with an assertion that fails."""

import sys

import kinto_http

server, bucket = sys.argv[1:]
client = kinto_http.Client(server_url=server, auth=("alice", "secret"), bucket=bucket, collection="notes")
stranger = kinto_http.Client(server_url=server, auth=("bob", "secret"), bucket=bucket)

capability = client.server_info()["capabilities"]["history"]
assert capability["description"] == "Track changes on data.", capability
user_id = client.server_info()["user"]["id"]

client.create_bucket()
client.create_group(id="staff", data={"members": [user_id]})
client.create_collection()
with client.batch() as batch:
    for number in range(30):
        batch.create_record(id=f"r{number}", data={"number": number})
client.update_record(id="r0", data={"number": 100})
client.patch_record(id="r1", data={"colour": "red"})
client.delete_record(id="r2")


def said(entries):
    return [(entry["action"], entry["uri"].removeprefix(f"/buckets/{bucket}")) for entry in entries]


history = client.get_history()
assert said(history[:3]) == [
    ("delete", "/collections/notes/records/r2"),
    ("update", "/collections/notes/records/r1"),
    ("update", "/collections/notes/records/r0"),
], history[:3]
assert said(reversed(history[-3:])) == [("create", ""), ("create", "/groups/staff"), ("create", "/collections/notes")]
assert len(history) == 36 and {entry["user_id"] for entry in history} == {user_id}
assert history[1]["target"]["data"] == client.get_record(id="r1")["data"]

# All of several pages.
assert client.get_history(_limit=7) == history[:7]
assert client.get_history(_limit=7, pages=10) == history
assert said(client.get_history(_sort="last_modified", _limit=10, pages=10)) == list(reversed(said(history)))
assert said(client.get_history(collection_id="notes", in_action="update,delete")) == said(history[:3])
assert said(client.get_history(record_id="r0", _fields="uri,action")) == said([history[2], history[32]])
assert said(client.get_history(uri=f"/buckets/{bucket}/groups/staff")) == [("create", "/groups/staff")]
assert client.get_history(user_id="basicauth:nobody") == []
newest = history[0]["last_modified"]
assert client.get_history(_since=newest) == []
assert client.get_history(_before=newest) == history[1:]

try:
    stranger.get_history()
    raise AssertionError("a stranger saw a history")
except kinto_http.KintoException as refused:
    assert refused.response.status_code == 403, refused

assert [row["deleted"] for row in client.purge_history(record_id="r0")] == [True, True]
assert client.get_history(record_id="r0") == []
assert len(client.purge_history(_before=history[1]["last_modified"])) == 32
assert said(client.get_history()) == said(history[:2])
assert len(client.purge_history()) == 2 and client.get_history() == []
assert len(client.get_records()) == 29
