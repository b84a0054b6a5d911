"""A small Hugging Face hub on loopback: as much of its protocol as ``huggingface_hub`` uses to read and to push models."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

BODIES = 65536  # bytes written at once, so that a connection can break in the middle
LARGE = (".safetensors", ".bin", ".gguf", ".pt")  # files that the hub keeps outside git and redirects to


def digest(content: bytes) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(content).hexdigest()


@dataclass
class Repository:
    """Files by commit, commits by branch or tag, and who may read them; ``denied``: the owner did not grant the access of ``gated``."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    tags: set[str] = field(default_factory=set)
    gated: bool = False
    denied: bool = False
    private: bool = False

    def commit(self, files: Mapping[str, bytes], *refs: str) -> str:
        """Add a commit and move branches to it."""
        name = hashlib.sha1(repr(sorted((k, digest(v)) for k, v in files.items())).encode()).hexdigest()
        self.commits[name] = dict(files)
        self.refs |= dict.fromkeys(refs or ("main",), name)
        return name


class Hub:
    """State of the hub, which a test changes while it runs.

    Attributes:
        token: the only one that is known; whoever sends it may read and write everything.
        cuts: path of a file -> how many of the next downloads of it break off half way.
        down: every answer is 503.
        asked: method and path of each request.
        ranges: ``Range`` header of each download that had one.
        leaks: number of requests to the store of large files, another host, that carried a token.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.token = "hf_" + "s3cret" * 5
        self.cuts: dict[str, int] = {}
        self.down = False
        self.asked: list[str] = []
        self.ranges: list[str] = []
        self.leaks = 0
        self.uploads: dict[str, bytes] = {}
        self.url = self.store = ""

    def add(self, name: str, folder: Path | Mapping[str, bytes], *refs: str, **rights: bool) -> str:
        """Add a folder's files as a commit of a repository, new or old; return the commit."""
        if isinstance(folder, Path):
            folder = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
        repository = self.repositories.setdefault(name, Repository(**rights))
        return repository.commit(folder, *refs)

    def fetched(self) -> set[str]:
        """Return the names of all files that were downloaded."""
        small = {path.split("/", 5)[-1] for path in self.asked if path.startswith("GET /") and "/resolve/" in path}
        return small | {path.split("/", 3)[-1] for path in self.asked if path.startswith("GET /cdn/")}


class Answer(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        """Say nothing on the terminal."""

    def send(self, status: int, body: Any = b"", *, error: str = "", **headers: str) -> None:
        """Send bytes, or anything else as JSON; an error has the hub's own headers."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        if error:
            headers |= {"X-Error-Code": error, "X-Error-Message": error}
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def route(self) -> None:
        """Answer a request of any method."""
        path = unquote(urlsplit(self.path).path)
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        self.hub.asked.append(f"{self.command} {path}")
        words = path.strip("/").split("/")
        if self.hub.down:
            return self.send(503, error="ServerError")
        if words[0] == "cdn":
            self.hub.leaks += "Authorization" in self.headers
            return self.download(self.file_of(words[1]), words[-1])
        if words[0] == "upload":
            self.hub.uploads[words[1]] = self.body
            return self.send(200)
        if path in ("/api/repos/create", "/api/whoami-v2"):
            return self.account(path)
        if path == "/api/validate-yaml":
            return self.send(200, {"warnings": [], "errors": []})
        api = words[:2] == ["api", "models"]
        name = "/".join(words[2:4] if api else words[:2]).removesuffix(".git")
        repository = self.allowed(name)
        if repository is None:
            return None
        return self.api(name, repository, words[4:]) if api else self.resolve(name, repository, words[2:])

    do_GET = do_HEAD = do_POST = do_PUT = route  # noqa: N815

    @property
    def known(self) -> bool:
        """True if the request has the right token."""
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def account(self, path: str) -> None:
        """Create a repository, or tell who asks."""
        if not self.known:
            return self.send(401, {"error": "Invalid username or password."})
        if path.endswith("whoami-v2"):
            return self.send(200, {"type": "user", "name": "owner", "auth": {}, "orgs": []})
        wanted = json.loads(self.body)
        name = f"{wanted.get('organization', 'owner')}/{wanted['name']}"
        if name in self.hub.repositories:
            return self.send(409, {"error": "exists", "url": f"{self.hub.url}/{name}"})
        private = wanted.get("private") or wanted.get("visibility") == "private"
        self.hub.repositories[name] = Repository(private=bool(private))
        self.hub.repositories[name].commit({".gitattributes": b""})
        return self.send(200, {"url": f"{self.hub.url}/{name}", "name": name})

    def allowed(self, name: str) -> Repository | None:
        """Return a repository, or answer that there is none or that it is restricted, as the hub does."""
        repository = self.hub.repositories.get(name)
        if self.headers.get("Authorization") and not self.known:
            return self.send(401, {"error": "Invalid credentials in Authorization header"})
        if repository is None or (repository.private and not self.known):
            return self.send(404 if self.known else 401, error="RepoNotFound")
        open_to_all = "/api/models/" in self.path  # what a restricted model is, everyone may know
        if repository.gated and not open_to_all and (repository.denied or not self.known):
            return self.send(403 if self.known else 401, error="GatedRepo")
        return repository

    def api(self, name: str, repository: Repository, words: list[str]) -> None:
        """Answer what is asked about a repository, and take commits."""
        action = words[0] if words else "revision"
        if action in ("preupload", "commit"):
            return self.write(name, repository, action, "/".join(words[1:]))
        if action == "refs":
            branches, tags = (
                [{"name": ref, "ref": ref, "targetCommit": c} for ref, c in repository.refs.items() if (ref in repository.tags) is tagged]
                for tagged in (False, True)
            )
            return self.send(200, {"branches": branches, "tags": tags, "converts": []})
        commit = self.commit_of(repository, words[1] if len(words) > 1 else "main")
        if commit is None:
            return None
        files = repository.commits[commit]
        if action == "tree":
            return self.send(200, [self.entry(path, content) for path, content in files.items()])
        facts = {
            "id": name,
            "modelId": name,
            "sha": commit,
            "private": repository.private,
            "gated": "manual" if repository.gated else False,
        }
        return self.send(200, facts | {"siblings": [{"rfilename": path} for path in files], "tags": [], "downloads": 0})

    def commit_of(self, repository: Repository, revision: str) -> str | None:
        """Return the commit of a branch, tag or commit, or answer that there is none."""
        commit = repository.refs.get(revision, revision)
        return commit if commit in repository.commits else self.send(404, error="RevisionNotFound")

    def entry(self, path: str, content: bytes) -> dict[str, Any]:
        """Return a line of the list of files."""
        large = {"lfs": {"oid": digest(content), "size": len(content), "pointerSize": 130}} if path.endswith(LARGE) else {}
        return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest(), **large}

    def resolve(self, name: str, repository: Repository, words: list[str]) -> None:
        """Send a file, or where it lies; large files are sent from another address."""
        if words[0] == "info":
            return self.large_uploads()
        commit = self.commit_of(repository, words[1])
        if commit is None:
            return None
        path = "/".join(words[2:])
        content = repository.commits[commit].get(path)
        if content is None:
            return self.send(404, error="EntryNotFound", X_Repo_Commit=commit)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        if not path.endswith(LARGE):
            return self.download(content, path, **headers)
        headers |= {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{digest(content)}"'}
        return self.send(302, Location=f"{self.hub.store}/cdn/{digest(content)}/{path}", **headers)

    def file_of(self, wanted: str) -> bytes:
        """Return the large file with a hash."""
        every = (each for r in self.hub.repositories.values() for files in r.commits.values() for each in files.values())
        return next(each for each in every if digest(each) == wanted)

    def download(self, content: bytes, path: str, **headers: str) -> None:
        """Send a file from the byte that is asked for; break off half way if the test wants that."""
        span = self.headers.get("Range")
        start = int(span.removeprefix("bytes=").split("-")[0]) if span else 0
        self.hub.ranges += [span] if span else []
        whole, content = len(content), content[start:]
        if span:
            headers["Content-Range"] = f"bytes {start}-{whole - 1}/{whole}"
        if self.command == "GET" and self.hub.cuts.get(path, 0) > 0:
            self.hub.cuts[path] -= 1
            headers["Content_Length"] = str(len(content))
            self.send(
                206 if span else 200,
                content[: len(content) // 2],
                **{k: v for k, v in headers.items() if k != "Content_Length"},
                Content_Length=str(len(content)),
            )
            self.wfile.flush()
            self.close_connection = True
            return None
        return self.send(206 if span else 200, content, **headers)

    def write(self, name: str, repository: Repository, action: str, revision: str) -> None:
        """Say how files are sent, or take a commit of them."""
        if not self.known:
            return self.send(403, error="Forbidden")
        if action == "preupload":
            paths = [each["path"] for each in json.loads(self.body)["files"]]
            modes = [{"path": p, "uploadMode": "lfs" if p.endswith(LARGE) else "regular", "shouldIgnore": False} for p in paths]
            return self.send(200, {"files": modes})
        files = dict(repository.commits[repository.refs[revision]])
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploads[value["oid"]]
            elif line["key"] in ("deletedFile", "deletedEntry"):
                files.pop(value["path"], None)
        commit = repository.commit(files, revision)
        return self.send(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit})

    def large_uploads(self) -> None:
        """Say where each large file is uploaded to."""
        objects = json.loads(self.body)["objects"]
        ways = [{"oid": o["oid"], "size": o["size"], "actions": {"upload": {"href": f"{self.hub.url}/upload/{o['oid']}"}}} for o in objects]
        self.send(200, {"transfer": "basic", "objects": ways})


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Run a hub in a thread."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundAnswer", (Answer,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    hub.store = f"http://localhost:{server.server_port}"  # another host, as large files have on the real hub
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def connect(hub: Hub, patch: Any, cache: Path) -> None:
    """Let ``huggingface_hub`` of this process ask a hub, with an empty cache and no token; ``patch`` is pytest's monkeypatch."""
    from huggingface_hub import constants

    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": template,
        "HF_HUB_OFFLINE": False,
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_DISABLE_XET": True,
        "HF_TOKEN_PATH": str(cache / "no_token"),
    }.items():
        patch.setattr(constants, name, value)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        patch.delenv(name, raising=False)
