"""A server on this machine that answers as a hub does: repositories, revisions, files, errors."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

GATED = "someone/gated"
CDN = "cdn/"
ADDRESS = re.compile(rf"(?:{CDN}|api/models/)?([^/]+/[^/]+)/(resolve|revision|tree)/([^/]+)/?(.*)")


class Hub:
    """commits: by name of a repository, then by commit, a folder of its files. branches: by name
    and branch, a commit. asked: what has been asked for, such as `GET org/name/vab.json`."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, Path]] = {}
        self.branches: dict[tuple[str, str], str] = {}
        self.asked: list[str] = []
        self.url = ""

    def commit(self, name: str, folder: Path, branch: str = "main") -> str:
        """Put a folder there as the branch's newest commit; returns its hash."""
        commit = hashlib.sha1(f"{name}{folder}".encode(), usedforsecurity=False).hexdigest()
        self.commits.setdefault(name, {})[commit] = folder
        self.branches[name, branch] = commit
        return commit

    def find(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and content for ORG/NAME/resolve/REVISION/FILE, and what a repository
        holds for api/models/ORG/NAME/revision/REVISION and .../tree/COMMIT.

        A large file is elsewhere, below cdn/, and the hub sends there and says what to expect.
        """
        found = ADDRESS.fullmatch(path)
        if found is None:
            return 404, {}, b""
        name, what, revision, file = found.groups()
        if name == GATED:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        if name not in self.commits:
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        commit = self.branches.get((name, unquote(revision)), revision)
        if commit not in self.commits[name]:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if what != "resolve":
            return 200, {}, json.dumps(self.describe(name, commit, what)).encode()
        found = self.commits[name][commit] / file
        if not found.is_file():
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        content = found.read_bytes()
        etag = hashlib.sha256(content).hexdigest()
        if path.startswith(CDN):
            return 200, {}, content
        if not file.endswith(".onnx"):
            return 200, {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}, content
        there = self.url.replace("127.0.0.1", "localhost")  # another host than the hub's
        headers = {
            "X-Repo-Commit": commit,
            "X-Linked-ETag": f'"{etag}"',
            "X-Linked-Size": str(len(content)),
            "Location": f"{there}/{CDN}{name}/resolve/{commit}/{file}",
        }
        return 302, headers, b""

    def describe(self, name: str, commit: str, what: str) -> object:
        files = {path.name: path.read_bytes() for path in self.commits[name][commit].iterdir()}
        if what == "revision":
            return {"id": name, "sha": commit, "siblings": [{"rfilename": file} for file in files]}
        entries = []
        for file, content in files.items():
            entry = {"type": "file", "path": file, "size": len(content), "oid": "0" * 40}
            if file.endswith(".onnx"):
                oid = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 1}
            entries.append(entry)
        return entries


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            path = self.path.lstrip("/").partition("?")[0]
            hub.asked.append(f"{self.command} {path}")
            status, headers, content = hub.find(path)
            self.send_response(status)
            for header, value in headers.items():
                self.send_header(header, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_GET = do_HEAD

        def log_message(self, *details: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
