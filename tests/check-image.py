#!/usr/bin/env python3
"""An independent judge of images in a registry: everything is fetched over HTTP and computed again from its bytes.

    check-image.py REGISTRY/NAME:TAG… [--ca FILE] [--auth-file CONFIG.JSON]

For each image: the digest and size of every document and blob, the diffID of every layer after decompression, as many
history entries with a layer as there are layers, media types that agree with what the documents say of themselves.
Shares no code with rbuild. zstd layers need the `zstd` program.
"""

import argparse
import base64
import gzip
import hashlib
import json
import ssl
import subprocess
import sys
import urllib.request
import zlib

INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)


class Fault(Exception):
    pass


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Registry:
    def __init__(self, host, ca, auth):
        self.host = host
        self.headers = {"Authorization": "Basic " + auth} if auth else {}
        self.context = ssl.create_default_context(cafile=ca) if ca else None
        self.scheme = "https" if ca else "http"
        self.n_blobs = 0

    def get(self, path):
        request = urllib.request.Request(f"{self.scheme}://{self.host}/v2/{path}", headers=self.headers)
        request.add_header("Accept", ", ".join(INDEXES + MANIFESTS))
        with urllib.request.urlopen(request, context=self.context, timeout=60) as answer:
            return answer.read(), answer.headers

    def described(self, name, kind, descriptor):
        """The bytes behind a descriptor, which must be what it says."""
        data, headers = self.get(f"{name}/{kind}/{descriptor['digest']}")
        if len(data) != descriptor["size"]:
            raise Fault(f"{descriptor['digest']} has {len(data)} bytes, not {descriptor['size']}")
        if sha256(data) != descriptor["digest"]:
            raise Fault(f"{descriptor['digest']} has the digest {sha256(data)}")
        self.n_blobs += kind == "blobs"
        return data, headers

    def check(self, name, tag):
        data, headers = self.get(f"{name}/manifests/{tag}")
        if headers["Docker-Content-Digest"] != sha256(data):
            raise Fault(f"{name}:{tag} is not what the registry says")
        return self.document(name, data, headers["Content-Type"])

    def document(self, name, data, media_type):
        document = json.loads(data)
        if document.get("schemaVersion") != 2:
            raise Fault("the schema version is not 2")
        if document.get("mediaType", media_type) != media_type:
            raise Fault(f"a {media_type} says that it is a {document['mediaType']}")
        if media_type in INDEXES:
            count = 0
            for descriptor in document["manifests"]:
                child, headers = self.described(name, "manifests", descriptor)
                if headers["Content-Type"] != descriptor["mediaType"]:
                    raise Fault(f"{descriptor['digest']} has another media type than its descriptor")
                count += self.document(name, child, descriptor["mediaType"])
            return count
        if media_type not in MANIFESTS:
            raise Fault(f"unknown media type {media_type}")
        is_docker = media_type == MANIFESTS[1]
        for descriptor in [document["config"], *document["layers"]]:
            if descriptor["mediaType"].startswith("application/vnd.docker.") != is_docker:
                raise Fault("media types of Docker and OCI are mixed")
        config = json.loads(self.described(name, "blobs", document["config"])[0])
        diff_ids = config["rootfs"]["diff_ids"]
        if len(diff_ids) != len(document["layers"]):
            raise Fault(f"{len(document['layers'])} layers, {len(diff_ids)} diffIDs")
        n_history = sum(not entry.get("empty_layer", False) for entry in config["history"])
        if n_history != len(diff_ids):
            raise Fault(f"{len(diff_ids)} layers, {n_history} in the history")
        for descriptor, diff_id in zip(document["layers"], diff_ids):
            layer = self.described(name, "blobs", descriptor)[0]
            if sha256(unpacked(layer, descriptor["mediaType"])) != diff_id:
                raise Fault(f"layer {descriptor['digest']} is not {diff_id}")
        return 1


def unpacked(layer, media_type):
    if media_type.endswith("gzip"):
        return gzip.decompress(layer)
    if media_type.endswith("zstd"):
        return subprocess.run(["zstd", "-dcq"], input=layer, stdout=subprocess.PIPE, check=True).stdout
    return layer


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("images", nargs="+")
    parser.add_argument("--ca")
    parser.add_argument("--auth-file")
    arguments = parser.parse_args()
    is_good = True
    for image in arguments.images:
        host, rest = image.split("/", 1)
        name, tag = rest.rsplit(":", 1)
        auth = None
        if arguments.auth_file:
            with open(arguments.auth_file, encoding="utf-8") as file:
                auth = json.load(file)["auths"].get(host, {}).get("auth")
            if auth:
                base64.b64decode(auth)
        registry = Registry(host, arguments.ca, auth)
        try:
            n_images = registry.check(name, tag)
            print(f"{image}: {n_images} image(s), {registry.n_blobs} blobs, all as described")
        except (Fault, OSError, EOFError, KeyError, ValueError, zlib.error, subprocess.CalledProcessError) as fault:
            print(f"{image}: {fault}")
            is_good = False
    sys.exit(0 if is_good else 1)


main()
