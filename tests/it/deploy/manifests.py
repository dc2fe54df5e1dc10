"""Checks files for Kubernetes against its schemas, and prints their content as JSON: a list for each file."""

import json
import sys

import kubernetes_validate
import yaml

version, *paths = sys.argv[1:]
found = []
for path in paths:
    with open(path, encoding="utf-8") as file:
        documents = list(yaml.safe_load_all(file))
    found.append(documents)
    for document in documents:
        # Kustomize's, Compose's and Prometheus's own files are no objects of Kubernetes.
        if "kustomize" not in document.get("apiVersion", "kustomize"):
            kubernetes_validate.validate(document, version, strict=True)
json.dump(found, sys.stdout)
