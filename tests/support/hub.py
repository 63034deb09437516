"""A local stand-in for the Hugging Face Hub: the part of its HTTP API that an upload uses."""

import base64
import contextlib
import hashlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

from benchmarks.local_server import local_server

_KINDS = ("/api/models/", "/api/datasets/")


class StandInHub:
    """Keeps what is uploaded: as on the real Hub, large files by LFS and small ones within the commit.

    Attributes:
        created: The requests that created repositories.
        files: Content of the committed files by name.
        blobs: Content of the LFS objects by SHA-256.
        refuses: Whether every POST is refused.
        endpoint: Its address.
    """

    def __init__(self) -> None:
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.refuses = False
        self.endpoint = ""

    def answer(self, path: str, body: bytes) -> tuple[int, Any]:
        """Answer a POST."""
        if self.refuses:
            return 403, {"error": "Forbidden: you don't have the rights to create a model under this namespace"}
        if path == "/api/validate-yaml":  # the front matter of the card
            return 200, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            return 200, {"url": f"{self.endpoint}/{self._name()}"}
        if path.startswith(_KINDS) and "/preupload/" in path:
            files = json.loads(body)["files"]
            return 200, {"files": [self._mode(file["path"]) for file in files]}
        if path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            return 200, {"transfer": "basic", "objects": [self._upload_actions(one) for one in objects]}
        if path.startswith(_KINDS) and "/commit/" in path:
            self._commit(body)
            return 200, {"commitUrl": f"{self.endpoint}/{self._name()}/commit/1", "commitOid": "1" * 40}
        return 404, {"error": f"no such path: {path}"}

    def listing(self, path: str) -> tuple[int, Any]:
        """Answer a GET: the files of the repository."""
        if path.startswith(_KINDS) and "/tree/" in path:
            return 200, [
                {"type": "file", "path": name, "oid": "0" * 40, "size": len(content)}
                for name, content in self.files.items()
            ]
        return 404, {}

    def put(self, path: str, body: bytes) -> int:
        """Store a large file, whose address ends with its SHA-256; return the HTTP status."""
        oid = path.rpartition("/")[2]
        if hashlib.sha256(body).hexdigest() != oid:
            return 400
        self.blobs[oid] = body
        return 200

    def _name(self) -> str:
        made = self.created[-1]
        return f"{made['organization']}/{made['name']}" if made.get("organization") else str(made["name"])

    def _mode(self, path: str) -> dict[str, Any]:
        large = path.endswith((".safetensors", ".wav", ".png", ".parquet", ".tar"))
        return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": None}

    def _upload_actions(self, one: dict[str, Any]) -> dict[str, Any]:
        return {**one, "authenticated": True, "actions": {"upload": {"href": f"{self.endpoint}/blobs/{one['oid']}"}}}

    def _commit(self, body: bytes) -> None:
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                self.files[value["path"]] = self.blobs[value["oid"]]
            elif entry["key"] == "deletedFile":
                del self.files[value["path"]]


@contextlib.contextmanager
def serving(hub: StandInHub) -> Iterator[StandInHub]:
    """Serve the stand-in on a free local port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, data = hub.answer(self.path.partition("?")[0], self._body())
            self._reply(status, json.dumps(data).encode())

        def do_PUT(self) -> None:
            self._reply(hub.put(self.path.partition("?")[0], self._body()), b"")

        def do_GET(self) -> None:
            status, data = hub.listing(self.path.partition("?")[0])
            self._reply(status, json.dumps(data).encode())

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _reply(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            pass

    with local_server(Handler) as hub.endpoint:
        yield hub
