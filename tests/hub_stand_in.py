"""A small server that speaks as much of the hub's language as pushing and fetching a model takes."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

TOKEN = "hf_of_the_test"


class StandIn:
    """Repositories of models: their files, by name; each change has another commit.

    Attributes:
        files: Of each repository.
        fetched: Names of files that somebody has asked for.
        address: To be called the endpoint.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.fetched: list[str] = []
        self.address = ""

    def commit(self, name: str) -> str:
        digests = sorted((path, hashlib.sha1(content).hexdigest()) for path, content in self.files[name].items())
        return hashlib.sha1(json.dumps([name, digests]).encode()).hexdigest()

    def answer(self, method: str, path: str, body: bytes, token: str) -> tuple[int, object]:
        """Return the status, and what is said: JSON values, or the bytes of a file."""
        if method == "POST":
            if token != f"Bearer {TOKEN}":
                return 401, {"error": "Invalid username or password."}
            return self._written(path, body)
        if match := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(/revision/\w+)?", path):
            name = match[1]
            if name not in self.files:
                return 401, {"error": "Repository not found"}  # as the hub says of what may be private
            return 200, {
                "id": name,
                "sha": self.commit(name),
                "siblings": [{"rfilename": one} for one in self.files[name]],
            }
        if match := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/tree/\w+", path):
            return 200, [
                {"type": "file", "path": one, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for one, content in self.files[match[1]].items()
            ]
        if match := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/\w+/(.+)", path):
            if match[2] not in self.files.get(match[1], {}):
                return 404, {"error": "Entry not found"}
            if method == "GET":
                self.fetched.append(match[2])
            return 200, self.files[match[1]][match[2]]
        return 404, {"error": f"no {method} {path}"}

    def _written(self, path: str, body: bytes) -> tuple[int, object]:
        if path == "/api/repos/create":
            given = json.loads(body)
            name = f"{given['organization']}/{given['name']}" if given.get("organization") else given["name"]
            status = 409 if name in self.files else 200
            self.files.setdefault(name, {})
            return status, {"url": f"{self.address}/{name}"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if match := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/preupload/\w+", path):
            files = json.loads(body)["files"]
            return 200, {
                "files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]
            }
        if match := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/commit/\w+", path):
            for line in body.splitlines():
                change = json.loads(line)
                if change["key"] == "file":
                    content = base64.b64decode(change["value"]["content"])
                    self.files[match[1]][change["value"]["path"]] = content
            oid = self.commit(match[1])
            return 200, {"success": True, "commitOid": oid, "commitUrl": f"{self.address}/{match[1]}/commit/{oid}"}
        return 404, {"error": f"no POST {path}"}


@contextmanager
def hub_stand_in() -> Iterator[StandIn]:
    """Yield a hub that listens on this machine."""
    hub = StandIn()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def _reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            status, said = hub.answer(self.command, path, body, self.headers.get("Authorization", ""))
            content = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            if isinstance(said, bytes):
                name = "/".join(path.split("/")[1:3])
                self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", hub.commit(name))
            elif status == 401:
                self.send_header("X-Error-Code", "RepoNotFound" if self.command == "GET" else "")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_POST = do_HEAD = _reply

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
