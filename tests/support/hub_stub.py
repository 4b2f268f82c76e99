"""A Hugging Face hub on this machine: what `datasets` and `huggingface_hub` ask for, answered from folders."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "5eb1f4" + 34 * "0"
TOKEN = "hf_stub"


class Hub(ThreadingHTTPServer):
    """Data sets by their names; `gated` ones are for those who send `TOKEN`. `read` are the files that were read."""

    def __init__(self, folders: dict[str, Path], gated: tuple[str, ...] = ()) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.folders, self.gated = folders, gated
        self.read: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        api = parts[0] == "api"
        kind, owner, name, *rest = (parts[1:] if api else parts) + [""] * 4
        folder = self.server.folders.get(f"{owner}/{name}") if kind == "datasets" else None
        what, revision, path = rest[0], rest[1], "/".join(rest[2:]).rstrip("/")
        if folder is None:
            self.refuse(404, "RepoNotFound")
        elif revision not in ("", "main", COMMIT):
            self.refuse(404, "RevisionNotFound")
        elif api and what in ("", "revision"):
            siblings = [{"rfilename": one["path"]} for one in entries(folder) if one["type"] == "file"]
            about = {"id": f"{owner}/{name}", "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}
            self.tell(about)
        elif api and what == "tree":
            deep = "recursive=true" in self.path.lower()
            self.tell(entries(folder / path, folder, "**/*" if deep else "*"))
        elif api and what == "paths-info":
            wanted = json.loads(body)["paths"]
            self.tell([one for one in entries(folder) if one["path"] in wanted])
        elif what == "resolve" and self.is_refused(f"{owner}/{name}"):
            self.refuse(401, "GatedRepo")
        elif what == "resolve" and (folder / path).is_file():
            self.hand_out(folder / path)
        else:
            self.refuse(404, "EntryNotFound")

    def is_refused(self, repository: str) -> bool:
        return repository in self.server.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}"

    def hand_out(self, file: Path) -> None:
        content, status, headers = file.read_bytes(), 200, {"ETag": f'"{digest(file)}"', "X-Repo-Commit": COMMIT}
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            content, status = content[start : end + 1], 206
        if self.command == "GET":
            self.server.read.append(file.name)
        self.send(status, content, headers | {"Accept-Ranges": "bytes"})

    def tell(self, data: object) -> None:
        self.send(200, json.dumps(data).encode(), {"Content-Type": "application/json"})

    def refuse(self, status: int, code: str) -> None:
        self.send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


def entries(folder: Path, root: Path | None = None, pattern: str = "**/*") -> list[dict[str, object]]:
    """Files and folders as the hub lists them, with paths from `root`."""
    return [
        {
            "type": "directory" if path.is_dir() else "file",
            "path": path.relative_to(root or folder).as_posix(),
            "size": 0 if path.is_dir() else path.stat().st_size,
            "oid": digest(path),
        }
        for path in sorted(folder.glob(pattern))
    ]


def digest(path: Path) -> str:
    return hashlib.sha1(path.name.encode() if path.is_dir() else path.read_bytes()).hexdigest()


@contextmanager
def serving(folders: dict[str, Path], gated: tuple[str, ...] = ()) -> Iterator[Hub]:
    with Hub(folders, gated) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        try:
            yield hub
        finally:
            hub.shutdown()
