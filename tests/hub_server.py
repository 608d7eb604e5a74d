"""A Hugging Face Hub on loopback: the part of its HTTP API that `huggingface_hub` 2.4 uses to make a dataset repository, to upload large
files by SHA-256, to commit, tag and read. Content is really kept and really checked; `faults` says which requests break, and how.

    with hub_server() as hub:  # HF_ENDPOINT=hub.url, HF_TOKEN=hub.token("ann"), HF_HUB_DISABLE_XET=1
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LICENSES = {"apache-2.0", "cc-by-4.0", "cc-by-sa-4.0", "mit", "other", "unknown"}
Files = dict[str, tuple[bytes, bool]]
"""Path → content, and whether it is a large file."""


@dataclass
class Repo:
    private: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    main: str = ""
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Files, message: str) -> str:
        oid = hashlib.sha1(f"{len(self.commits)} {self.main} {message}".encode()).hexdigest()
        self.commits[oid], self.main = files, oid
        self.messages.append(message)
        return oid

    def at(self, revision: str) -> str | None:
        """The commit that a revision means."""
        found = {"main": self.main, "refs/heads/main": self.main, **self.tags}.get(revision, revision)
        return found if found in self.commits else None


@dataclass
class Fault:
    """The `nth` request of that method whose path matches is broken, and every later one unless `once`: cut off in the middle of its body,
    answered with a status, or left hanging."""

    method: str
    path: str
    how: int | str  # a status, "cut" or "hang"
    nth: int = 1
    once: bool = False
    message: str = "out of order"
    seen: int = 0

    def strikes(self, method: str, path: str) -> bool:
        if method != self.method or not re.search(self.path, path):
            return False
        self.seen += 1
        return self.seen == self.nth or (self.seen > self.nth and not self.once)


class Hub:
    """What the server knows. `requests`: every one, as (method, path, status); `uploads`: the objects that arrived, in order."""

    def __init__(self) -> None:
        self.url = ""
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.tokens: dict[str, tuple[str, str]] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, int]] = []
        self.uploads: list[str] = []
        self.lock = threading.Lock()

    def token(self, user: str, role: str = "write") -> str:
        """A new token of a user; its role is write or read."""
        token = "hf_" + hashlib.sha256(f"{user} {role} {len(self.tokens)}".encode()).hexdigest()[:34]
        self.tokens[token] = (user, role)
        return token

    def make(self, name: str, files: dict[str, str] | None = None, *, private: bool = False) -> Repo:
        """A repository as the Hub makes it, or with these files."""
        repo = self.repos[name] = Repo(private=private)
        repo.commit({".gitattributes": (b"*.parquet filter=lfs\n", False)}, "initial commit")
        if files:
            repo.commit({**repo.commits[repo.main], **{path: (text.encode(), False) for path, text in files.items()}}, "by hand")
        return repo

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """What a reader finds, but for what the Hub itself put there."""
        repo = self.repos[name]
        oid = repo.at(revision)
        assert oid is not None
        return {path: content for path, (content, _) in repo.commits[oid].items() if path != ".gitattributes"}

    def asked(self, method: str, path: str) -> int:
        """How many requests of that method had a path that matches."""
        return sum(1 for found in self.requests if found[0] == method and re.search(path, found[1]))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def _handle(self) -> None:
        place = urlsplit(self.path)
        self.place, self.query = unquote(place.path), parse_qs(place.query)
        self.done = False
        with self.hub.lock:
            fault = next((fault for fault in self.hub.faults if fault.strikes(self.command, self.place)), None)
        if fault is not None and isinstance(fault.how, str):
            self._break(fault.how)
            return
        size = int(self.headers.get("Content-Length") or 0)
        self.body = self._chunks() if "chunked" in self.headers.get("Transfer-Encoding", "") else self.rfile.read(size)
        if len(self.body) < size:
            return
        if fault is not None:
            self._error(int(fault.how), fault.message, "RepoNotFound" if fault.how == 404 else "")
            return
        with self.hub.lock:
            self._route()

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _handle

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _break(self, how: str) -> None:
        self.hub.requests.append((self.command, self.place, 0))
        self.rfile.read(min(int(self.headers.get("Content-Length") or 0) // 2, 1000))
        if how == "hang":
            time.sleep(60)
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _route(self) -> None:
        routes: list[tuple[str, str, Callable[..., None]]] = [
            ("GET", r"/api/whoami-v2", self._whoami),
            ("POST", r"/api/repos/create", self._create),
            ("POST", r"/api/validate-yaml", self._validate),
            ("GET", r"/api/datasets/(?P<name>[^/]+/[^/]+)/auth-check(?P<write>/write)?", self._auth_check),
            ("GET", r"/api/datasets/(?P<name>[^/]+/[^/]+)(?:/revision/(?P<revision>.+))?", self._info),
            ("GET", r"/api/datasets/(?P<name>[^/]+/[^/]+)/refs", self._refs),
            ("GET", r"/api/datasets/(?P<name>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", self._tree),
            ("POST", r"/api/datasets/(?P<name>[^/]+/[^/]+)/paths-info/(?P<revision>[^/]+)", self._paths_info),
            ("POST", r"/api/datasets/(?P<name>[^/]+/[^/]+)/preupload/(?P<revision>.+)", self._preupload),
            ("POST", r"/datasets/(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", self._batch),
            ("PUT", r"/lfs/(?P<oid>\w{64})", self._put),
            ("POST", r"/lfs/(?P<oid>\w{64})/verify", self._verify),
            ("POST", r"/api/datasets/(?P<name>[^/]+/[^/]+)/commit/(?P<revision>.+)", self._commit),
            ("POST", r"/api/datasets/(?P<name>[^/]+/[^/]+)/tag/(?P<revision>.+)", self._tag),
            ("DELETE", r"/api/datasets/(?P<name>[^/]+/[^/]+)/tag/(?P<tag>.+)", self._untag),
            ("GET", r"/datasets/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", self._resolve),
        ]
        method = "GET" if self.command == "HEAD" else self.command
        for verb, pattern, action in routes:
            if verb == method and (found := re.fullmatch(pattern, self.place)):
                if "name" in found.groupdict() and not self._allowed(found["name"]):
                    return
                action(**found.groupdict())
                return
        self._error(404, f"no such place {self.place}")

    # Who may do what.

    def _user(self) -> tuple[str, str] | None:
        return self.hub.tokens.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

    def _allowed(self, name: str) -> bool:
        """Whether the repository can be seen and, for everything but reading, changed; else the answer is given."""
        repo, user = self.hub.repos.get(name), self._user()
        if self.headers.get("Authorization") and user is None:
            self._error(401, "Invalid credentials in Authorization header")
        elif repo is None or (repo.private and (user is None or user[0] != name.split("/")[0])):
            self._error(404, "Repository not found", "RepoNotFound")
        elif (self.command not in ("GET", "HEAD") or self.place.endswith("/write")) and "paths-info" not in self.place:
            if user is None:
                self._error(401, "Invalid username or password.")
            elif user != (name.split("/")[0], "write"):
                self._error(403, f"You have read access but not the required permissions; token {self.headers['Authorization']}")
        return not self.done

    def _whoami(self) -> None:
        if (user := self._user()) is None:
            self._error(401, "Invalid credentials in Authorization header")
        else:
            self._json({"type": "user", "name": user[0], "orgs": [], "auth": {"accessToken": {"displayName": "t", "role": user[1]}}})

    def _create(self) -> None:
        asked, user = json.loads(self.body), self._user()
        name = f"{asked.get('organization') or (user or ('',))[0]}/{asked['name']}"
        if user is None:
            self._error(401, "Invalid credentials in Authorization header")
        elif user != (name.split("/")[0], "write"):
            self._error(403, f"You don't have the rights to create a dataset under the namespace {name.split('/')[0]}")
        elif name in self.hub.repos:
            self._error(409, "You already created this dataset repo")
        else:
            self.hub.make(name, private=asked.get("visibility") == "private")
            self._json({"url": f"{self.hub.url}/datasets/{name}", "name": name})

    def _auth_check(self, name: str, write: str | None) -> None:
        self._json({})

    # Writing.

    def _validate(self) -> None:
        head = re.match(r"---\n(.*?)\n---\n", json.loads(self.body)["content"], re.DOTALL)
        found = yaml.safe_load(head[1]) if head else {}
        stated = found.get("license", [])
        wrong = [each for each in ([stated] if isinstance(stated, str) else stated) if each not in LICENSES]
        errors = [{"message": f'"license" must be one of {sorted(LICENSES)}, is {each}'} for each in wrong]
        errors += [] if head else [{"message": "no metadata"}]
        self._json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def _preupload(self, name: str, revision: str) -> None:
        files = self.hub.repos[name].commits[self.hub.repos[name].main]
        told = []
        for asked in json.loads(self.body)["files"]:
            large = asked["path"].endswith(".parquet")
            there = files.get(asked["path"])
            oid = None if there is None else hashlib.sha256(there[0]).hexdigest() if large else _blob(there[0])
            told.append({"path": asked["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid})
        self._json({"files": told})

    def _batch(self, name: str) -> None:
        objects = []
        for asked in json.loads(self.body)["objects"]:
            actions = {
                "upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}?X-Amz-Signature=secret-signature"},
                "verify": {"href": f"{self.hub.url}/lfs/{asked['oid']}/verify"},
            }
            objects.append({**asked, **({} if asked["oid"] in self.hub.objects else {"actions": actions})})
        self._json({"transfer": "basic", "objects": objects})

    def _put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            self._error(400, "content does not have that SHA-256")
            return
        self.hub.objects[oid] = self.body
        self.hub.uploads.append(oid)
        self._json({})

    def _verify(self, oid: str) -> None:
        self._json({}) if oid in self.hub.objects else self._error(404, "no such object")

    def _commit(self, name: str, revision: str) -> None:
        repo = self.hub.repos[name]
        files, message = dict(repo.commits[repo.main]), ""
        for line in self.body.splitlines():
            key, value = (item := json.loads(line))["key"], item["value"]
            if key == "header":
                message = value["summary"]
                if value.get("parentCommit", repo.main) != repo.main:
                    self._error(412, "A commit has happened since. Please refresh and try again.")
                    return
            elif key == "file":
                files[value["path"]] = (base64.b64decode(value["content"]), False)
            elif key == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    self._error(400, f"no object {value['oid']}")
                    return
                files[value["path"]] = (self.hub.objects[value["oid"]], True)
            elif key == "deletedFile":
                del files[value["path"]]
        oid = repo.commit(files, message)
        self._json({"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/datasets/{name}/commit/{oid}"})

    def _tag(self, name: str, revision: str) -> None:
        repo, tag = self.hub.repos[name], json.loads(self.body)["tag"]
        if tag in repo.tags:
            self._error(409, "Tag already exists")
        elif (oid := repo.at(revision)) is None:
            self._error(404, "Invalid rev id", "RevisionNotFound")
        else:
            repo.tags[tag] = oid
            self._json({})

    def _untag(self, name: str, tag: str) -> None:
        self._json({}) if self.hub.repos[name].tags.pop(tag, None) else self._error(404, "no such tag", "RevisionNotFound")

    # Reading.

    def _info(self, name: str, revision: str | None) -> None:
        repo = self.hub.repos[name]
        if (oid := repo.at(revision or "main")) is None:
            self._error(404, "Invalid rev id", "RevisionNotFound")
            return
        siblings = [{"rfilename": path} for path in sorted(repo.commits[oid])]
        self._json({"id": name, "sha": oid, "private": repo.private, "siblings": siblings, "tags": []})

    def _refs(self, name: str) -> None:
        repo = self.hub.repos[name]
        tags = [{"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": oid} for tag, oid in repo.tags.items()]
        self._json({"branches": [{"name": "main", "ref": "refs/heads/main", "targetCommit": repo.main}], "converts": [], "tags": tags})

    def _tree(self, name: str, revision: str, folder: str | None) -> None:
        repo = self.hub.repos[name]
        if (oid := repo.at(revision)) is None:
            self._error(404, "Invalid rev id", "RevisionNotFound")
            return
        inside = {path: found for path, found in repo.commits[oid].items() if not folder or path.startswith(folder + "/")}
        if folder and not inside:
            self._error(404, f"{folder} does not exist", "EntryNotFound")
            return
        deep = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        level = len(PurePosixPath(folder or "").parts) + 1
        folders = {str(up) for path in inside for up in PurePosixPath(path).parents if len(up.parts) >= level}
        told = [_folder(path) for path in sorted(folders) if deep or len(PurePosixPath(path).parts) == level]
        self._json(told + [_file(path, *found) for path, found in inside.items() if deep or len(PurePosixPath(path).parts) == level])

    def _paths_info(self, name: str, revision: str) -> None:
        repo = self.hub.repos[name]
        if (oid := repo.at(revision)) is None:
            self._error(404, "Invalid rev id", "RevisionNotFound")
            return
        content = self.headers.get("Content-Type", "")
        asked = json.loads(self.body)["paths"] if "json" in content else parse_qs(self.body.decode())["paths"]
        files = repo.commits[oid]
        told = [_file(path, *files[path]) for path in asked if path in files]
        self._json(told + [_folder(path) for path in asked if any(file.startswith(path + "/") for file in files)])

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repo = self.hub.repos[name]
        if (oid := repo.at(revision)) is None:
            self._error(404, "Invalid rev id", "RevisionNotFound")
            return
        if path not in repo.commits[oid]:
            self._error(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": oid})
            return
        content, large = repo.commits[oid][path]
        etag = hashlib.sha256(content).hexdigest() if large else _blob(content)
        headers = {"X-Repo-Commit": oid, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            low, high = int(found[1]), min(int(found[2] or len(content)), len(content) - 1)
            self._send(206, content[low : high + 1], {**headers, "Content-Range": f"bytes {low}-{high}/{len(content)}"})
        else:
            self._send(200, content, headers)

    # Answering.

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, message: str, code: str = "", headers: dict[str, str] | None = None) -> None:
        told = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}
        self._send(status, json.dumps({"error": message}).encode(), {"Content-Type": "application/json", **told})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.done = True
        self.hub.requests.append((self.command, self.place, status))
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}


def _file(path: str, content: bytes, large: bool) -> dict[str, Any]:
    sha256 = hashlib.sha256(content).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(content)}\n".encode()
    told = {"type": "file", "path": path, "size": len(content), "oid": _blob(pointer if large else content)}
    return {**told, "lfs": {"oid": sha256, "size": len(content), "pointerSize": len(pointer)}} if large else told


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A Hub on a free port, for as long as the block runs."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
