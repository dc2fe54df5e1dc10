"""Signs and verifies changesets, a request a line, with the key in the file that is named. Written of `cryptography` and `json` alone."""

import base64
import json
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

with open(sys.argv[1], "rb") as file:
    key = serialization.load_pem_private_key(file.read(), None)
algorithm = ec.ECDSA(hashes.SHA384())


def signed(records, timestamp):
    records = sorted((r for r in records if not r.get("deleted")), key=lambda r: r["id"])
    payload = {"data": records, "last_modified": str(timestamp)}
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return b"Content-Signature:\0" + text.encode()


def sign(request):
    r, s = utils.decode_dss_signature(key.sign(signed(request["records"], request["timestamp"]), algorithm))
    return base64.urlsafe_b64encode(r.to_bytes(48, "big") + s.to_bytes(48, "big")).decode()


def is_good(request):
    changeset = request["changeset"]
    text = signed(changeset["changes"], changeset["timestamp"])
    for signature in changeset["metadata"]["signatures"]:
        both = base64.urlsafe_b64decode(signature["signature"])
        der = utils.encode_dss_signature(*(int.from_bytes(both[at : at + 48], "big") for at in (0, 48)))
        try:
            key.public_key().verify(der, text, algorithm)
            return True
        except InvalidSignature:
            pass
    return False


for line in sys.stdin:
    request = json.loads(line)
    print(json.dumps(is_good(request) if "changeset" in request else sign(request)), flush=True)
