#!/usr/bin/env python3
"""Writes with kinto-http, and follows what is written with plain HTTP: a line for each change.

    pip install kinto-http
    python3 follow.py http://localhost:8889/v1 user password
"""

import json
import sys
import threading

import kinto_http
import requests

server, user, password = sys.argv[1:]
bucket, collection = "feeds-example", "notes"
client = kinto_http.Client(server_url=server, auth=(user, password))
client.create_bucket(id=bucket, if_not_exists=True)
client.create_collection(id=collection, bucket=bucket, if_not_exists=True)


def write():
    """Three changes."""
    client.create_record(id="note", data={"text": "first"}, safe=False, bucket=bucket, collection=collection)
    client.patch_record(id="note", data={"text": "second"}, bucket=bucket, collection=collection)
    client.delete_record(id="note", bucket=bucket, collection=collection)


url = f"{server}/buckets/{bucket}/collections/{collection}/_changes"
parameters = {"feed": "continuous", "since": "now", "include_docs": "true", "heartbeat": "10000"}
with requests.get(url, params=parameters, auth=(user, password), stream=True, timeout=(5, 30)) as feed:
    feed.raise_for_status()
    # The feed is open: what is written from here on is told.
    threading.Thread(target=write, daemon=True).start()
    for line in feed.iter_lines(chunk_size=1):
        if not line:
            continue  # a heartbeat
        row = json.loads(line)
        print(row["seq"], row["id"], "deleted" if row.get("deleted") else row["doc"]["text"], flush=True)
        if row.get("deleted"):
            break
