"""Reads a bundle from a file and prints what is in it as JSON: the changesets of a .mozlz4, the files of a .zip in order."""

import base64
import json
import sys
import zipfile

import lz4.block

path = sys.argv[1]
if path.endswith(".zip"):
    with zipfile.ZipFile(path) as bundle:
        assert bundle.testzip() is None
        files = [(name, base64.b64encode(bundle.read(name)).decode()) for name in bundle.namelist()]
    print(json.dumps(files))
else:
    with open(path, "rb") as file:
        content = file.read()
    magic = b"mozLz40\0"
    assert content.startswith(magic)
    print(json.dumps(json.loads(lz4.block.decompress(content[len(magic) :]))))
