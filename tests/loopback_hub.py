"""A small Hugging Face Hub on this machine, for tests: a real HTTP server that keeps its repos in memory.

    with LoopbackHub() as hub:
        hub.run([("train", "--push_to_hub", "--hub_model_id", "team/unet")], folder)
        hub.repos["team/unet"].files["config.json"]  # bytes

It speaks what `huggingface_hub` asks for to create repos, commit to them and read from them. Anyone may read;
writing takes the token. There is one branch, main, and every file is a regular one: no LFS, no Xet.
"""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

USER = "loopback-user"
RUN_COMMANDS = """
import importlib, json, sys

for command, *arguments in json.loads(sys.argv[1]):
    importlib.import_module(f"unet_kvasir_seg.{command}").main(arguments)
"""


@dataclass(frozen=True)
class Commit:
    """A state of a repo: all its files, and which of them this commit wrote or deleted."""

    sha: str
    title: str
    changed: frozenset[str]
    files: dict[str, bytes]


@dataclass
class Repo:
    """A repo of one branch. It begins, as on the Hub, with a commit, which is empty here."""

    private: bool = False
    commits: list[Commit] = field(
        default_factory=lambda: [Commit(_sha("initial commit"), "initial commit", frozenset(), {})]
    )

    @property
    def files(self) -> dict[str, bytes]:
        """Files of the newest commit."""
        return self.commits[-1].files

    @property
    def pushes(self) -> list[Commit]:
        """The commits that changed something."""
        return [commit for commit in self.commits if commit.changed]

    def at(self, revision: str) -> Commit | None:
        """The commit that `revision` names: main, or a commit's sha."""
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit.sha == revision), None)

    def commit(self, title: str, changes: Mapping[str, bytes | None]) -> Commit:
        """Write files, or delete those whose content is None."""
        files = {path: content for path, content in (self.files | changes).items() if content is not None}
        sha = _sha(self.commits[-1].sha, title, *(f"{path} {_blob_id(files[path])}" for path in sorted(files)))
        self.commits.append(Commit(sha, title, frozenset(changes), files))
        return self.commits[-1]


@dataclass
class Reply:
    """What the server answers; an `error` is the Hub's code for it, such as EntryNotFound."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    error: str | None = None


class LoopbackHub:
    """The server: `endpoint` is its address, `token` what it lets write.

    Data set and Space repos are kept under "datasets/ID" and "spaces/ID". `requests` holds "METHOD /path" of
    each request so far. `refusals` maps a regular expression to the HTTP status that requests matching it get.
    """

    def __init__(self) -> None:
        self.token = "hf_loopbackSecret"
        self.repos: dict[str, Repo] = {}
        self.requests: list[str] = []
        self.refusals: dict[str, int] = {}
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, name="loopback-hub", daemon=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "LoopbackHub":
        self._thread.start()
        return self

    def environment(self, home: Path) -> dict[str, str]:
        """This process's environment with this Hub in place of the real one, and with its cache in a folder."""
        own = ("HF_", "HUGGING", "TRANSFORMERS_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        return kept | {"HF_ENDPOINT": self.endpoint, "HF_TOKEN": self.token, "HF_HOME": str(home)}

    def answer_this_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put this Hub in place of the real one here, where huggingface_hub has read its variables already."""
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", self.endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", self.token)

    def run(
        self, commands: Sequence[Sequence[object]], folder: Path, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run commands one after the other in one process, since imports take longer than the runs.

        Args:
            commands: Of each its name, as "train", and its arguments.
            folder: Where they run; it also gets the Hub's cache.
            environment: Further variables.
        """
        words = [[str(word) for word in command] for command in commands]
        return subprocess.run(
            [sys.executable, "-c", RUN_COMMANDS, json.dumps(words)],
            cwd=folder,
            env=self.environment(folder / "hf") | environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def reply(self, method: str, path: str, token: str | None, body: bytes) -> Reply:
        """Answer one request."""
        with self._lock:
            request = f"{method} {path}"
            self.requests.append(request)
            for pattern, status in self.refusals.items():
                if re.search(pattern, request):
                    return Reply(status, error="Refused")
            for pattern, answer in _ROUTES:
                if match := re.fullmatch(pattern, request):
                    if method == "POST" and token != self.token and "/paths-info/" not in path:
                        return Reply(401, error="InvalidToken")
                    return answer(self, body, **match.groupdict())
            return Reply(404, error="NoSuchRoute")

    def _whoami(self, body: bytes) -> Reply:
        return Reply(body={"type": "user", "name": USER, "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def _validate_yaml(self, body: bytes) -> Reply:
        return Reply(body={"errors": [], "warnings": []})

    def _create(self, body: bytes) -> Reply:
        wanted = json.loads(body)
        kind = wanted.get("type") or "model"
        name = f"{wanted.get('organization') or USER}/{wanted['name']}"
        key = name if kind == "model" else f"{kind}s/{name}"
        status = 409 if key in self.repos else 200
        self.repos.setdefault(
            key, Repo(private=wanted.get("private") is True or wanted.get("visibility") == "private")
        )
        return Reply(status, {"url": f"{self.endpoint}/{key}", "name": name})

    def _preupload(self, body: bytes, kind: str, repo_id: str, revision: str) -> Reply:
        commit, failure = self._find(kind, repo_id, revision)
        if commit is None:
            return failure
        files = [
            {
                "path": file["path"],
                "uploadMode": "regular",
                "shouldIgnore": False,
                # By it the client tells that a file has not changed.
                "oid": _blob_id(commit.files[file["path"]]) if file["path"] in commit.files else None,
            }
            for file in json.loads(body)["files"]
        ]
        return Reply(body={"files": files})

    def _commit(self, body: bytes, kind: str, repo_id: str, revision: str) -> Reply:
        parent, failure = self._find(kind, repo_id, revision)
        if parent is None:
            return failure
        title, changes = "", {}
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                title = value["summary"]
            elif item["key"] == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "deletedFile":
                changes[value["path"]] = None
            elif item["key"] == "deletedFolder":
                changes |= {path: None for path in parent.files if path.startswith(value["path"].rstrip("/") + "/")}
            else:
                return Reply(400, error=f"Unsupported operation {item['key']}")
        commit = self.repos[_key(kind, repo_id)].commit(title, changes)
        url = f"{self.endpoint}/{_key(kind, repo_id)}/commit/{commit.sha}"
        return Reply(body={"success": True, "commitOid": commit.sha, "commitUrl": url})

    def _info(self, body: bytes, kind: str, repo_id: str, revision: str | None = None) -> Reply:
        commit, failure = self._find(kind, repo_id, revision or "main")
        if commit is None:
            return failure
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        private = self.repos[_key(kind, repo_id)].private
        return Reply(body={"id": repo_id, "sha": commit.sha, "private": private, "tags": [], "siblings": siblings})

    def _tree(
        self,
        body: bytes,
        kind: str,
        repo_id: str,
        revision: str,
        folder: str | None = None,
        recursive: str | None = None,
    ) -> Reply:
        commit, failure = self._find(kind, repo_id, revision)
        if commit is None:
            return failure
        start = f"{folder}/" if folder else ""
        paths = {path for path in commit.files if path.startswith(start)}
        paths |= {
            str(above) for path in paths for above in PurePosixPath(path).parents if str(above).startswith(start)
        }
        paths -= {".", folder}
        if not recursive:
            paths = {start + path.removeprefix(start).split("/")[0] for path in paths}
        found = [_entry(commit, path) for path in sorted(paths)]
        return Reply(body=found) if found or folder is None else Reply(404, error="EntryNotFound")

    def _paths_info(self, body: bytes, kind: str, repo_id: str, revision: str) -> Reply:
        commit, failure = self._find(kind, repo_id, revision)
        if commit is None:
            return failure
        there = commit.files.keys() | {str(above) for path in commit.files for above in PurePosixPath(path).parents}
        return Reply(body=[_entry(commit, path) for path in parse_qs(body.decode())["paths"] if path in there])

    def _resolve(self, body: bytes, kind: str | None, repo_id: str, revision: str, path: str) -> Reply:
        commit, failure = self._find(kind or "models", repo_id, revision)
        if commit is None:
            return failure
        headers = {"X-Repo-Commit": commit.sha}
        if path not in commit.files:
            return Reply(404, headers=headers, error="EntryNotFound")
        content = commit.files[path]
        return Reply(body=content, headers=headers | {"ETag": f'"{_blob_id(content)}"'})

    def _find(self, kind: str, repo_id: str, revision: str) -> tuple[Commit | None, Reply]:
        """The commit that was asked for, or what to answer where there is none."""
        repo = self.repos.get(_key(kind, repo_id))
        if repo is None:
            return None, Reply(404, error="RepoNotFound")
        return repo.at(revision), Reply(404, error="RevisionNotFound")


_REPO = r"/api/(?P<kind>models|datasets|spaces)/(?P<repo_id>[^/]+/[^/]+)"
_FILE = r"/(?:(?P<kind>datasets|spaces)/)?(?P<repo_id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)"
_ROUTES = (
    (r"GET /api/whoami-v2", LoopbackHub._whoami),
    (r"POST /api/validate-yaml", LoopbackHub._validate_yaml),
    (r"POST /api/repos/create", LoopbackHub._create),
    (rf"POST {_REPO}/preupload/(?P<revision>[^/]+)", LoopbackHub._preupload),
    (rf"POST {_REPO}/commit/(?P<revision>[^/]+)", LoopbackHub._commit),
    (rf"GET {_REPO}(?:/revision/(?P<revision>[^/]+))?", LoopbackHub._info),
    (rf"GET {_REPO}/tree/(?P<revision>[^/?]+)(?:/(?P<folder>[^?]+))?(?P<recursive>[?]recursive)?", LoopbackHub._tree),
    (rf"POST {_REPO}/paths-info/(?P<revision>[^/]+)", LoopbackHub._paths_info),
    (rf"(?:GET|HEAD) {_FILE}", LoopbackHub._resolve),
)


class _Handler(BaseHTTPRequestHandler):
    """Turns HTTP into calls of `LoopbackHub.reply` and its replies into HTTP."""

    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        url = urlsplit(self.path)
        mark = "?recursive" if "recursive=true" in url.query.lower() else ""
        reply = self.hub.reply(self.command, unquote(url.path) + mark, token, body)
        content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if part and self.command == "GET" and content is reply.body:
            first, last = int(part[1]), min(int(part[2]), len(content) - 1)
            reply.status = 206
            reply.headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content = reply.body = content[first : last + 1]
        if reply.error is not None:
            content = json.dumps({"error": reply.error}).encode()
            self.send_response(reply.status)
            self.send_header("X-Error-Code", reply.error)
            self.send_header("X-Error-Message", reply.error)
        else:
            self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/octet-stream" if content is reply.body else "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = _handle  # noqa: N815 - the names that http.server calls

    def log_message(self, *args: Any) -> None:
        """Stay silent: the requests are in `LoopbackHub.requests`."""


def _key(kind: str, repo_id: str) -> str:
    return repo_id if kind == "models" else f"{kind}/{repo_id}"


def _entry(commit: Commit, path: str) -> dict[str, Any]:
    """What the Hub says of a file or a folder of a commit."""
    if path not in commit.files:
        return {"type": "directory", "path": path, "oid": _sha(path)}
    content = commit.files[path]
    return {"type": "file", "path": path, "size": len(content), "oid": _blob_id(content)}


def _sha(*parts: str) -> str:
    return hashlib.sha1("\0".join(parts).encode()).hexdigest()


def _blob_id(content: bytes) -> str:
    """What git calls a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
