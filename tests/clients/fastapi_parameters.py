"""What FastAPI makes of queries: one query a line, for each a line of JSON with status and body.

The parameters are declared as those of Remote Settings' changesets are described: two integers, not negative, the second
of which may be missing; the first is not below the second unless one of them is zero.
"""

import asyncio
import json
import sys
from typing import Annotated

from fastapi import FastAPI, HTTPException, Query

app = FastAPI()


@app.get("/")
def changeset(_expected: Annotated[int, Query(ge=0)], _since: Annotated[int, Query(ge=0)] | None = None):
    if _since and 0 < _expected < _since:
        raise HTTPException(400, "_expected must be superior to _since if both are provided")
    return {}


async def ask(query):
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http"}
    scope |= {"path": "/", "raw_path": b"/", "query_string": query.encode(), "headers": [], "root_path": ""}
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:]).decode()


async def main():
    for line in sys.stdin:
        print(json.dumps(await ask(line.rstrip("\n"))))


asyncio.run(main())
