"""Repositories, accounts and contents of the test Hub: metadata in memory behind one lock a repo, contents on disk."""

import hashlib
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from .gitobjects import Entry, commit_id, regular_entry, tree_ids

LFS_SUFFIXES = (
    ".parquet", ".arrow", ".safetensors", ".bin", ".pt", ".pth", ".gguf", ".npy", ".npz", ".zip", ".gz", ".zst",
    ".tar", ".png", ".jpg", ".jpeg", ".webp",
)  # fmt: skip
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()
NAME = re.compile(r"(?!.*(--|\.\.))(?!.*\.git$)[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
REF = re.compile(r"(?!.*\.\.)(?!.*//)(?!.*\.lock$)[A-Za-z0-9_][A-Za-z0-9._/+-]*(?<![./])")
HEX40 = re.compile(r"[0-9a-f]{40}")


class HubError(Exception):
    """A refusal the client must see: HTTP status, message, and the X-Error-Code its exceptions are chosen by."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, dict(headers or {})


@dataclass(frozen=True)
class Account:
    """Who a token speaks for; `role` is "write" or "read"."""

    user: str
    role: str = "write"
    orgs: tuple[str, ...] = ()

    @property
    def namespaces(self) -> tuple[str, ...]:
        return (self.user, *self.orgs)


@dataclass(frozen=True)
class Commit:
    """An immutable revision: all files of the tree at that point."""

    oid: str
    parent: str | None
    files: Mapping[str, Entry]
    folders: Mapping[str, str]  # path -> git tree id; the root is ""
    title: str
    message: str
    author: str
    time: int  # Unix seconds

    @property
    def date(self) -> str:
        return datetime.fromtimestamp(self.time, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


@dataclass
class Repo:
    """One repository. Hold `lock` to read and change `branches`, `tags` and `commits` as one step."""

    kind: str  # model, dataset or space
    id: str  # namespace/name
    private: bool
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)  # also refs/pr/N
    tags: dict[str, str] = field(default_factory=dict)
    tag_messages: dict[str, str] = field(default_factory=dict)
    objects: set[str] = field(default_factory=set)  # sha256 of every LFS content uploaded to this repo
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def namespace(self) -> str:
        return self.id.partition("/")[0]

    def resolve(self, revision: str) -> Commit:
        """The commit a branch, tag, refs/... name or 40-hex id means; HubError 404 if none."""
        with self.lock:
            for prefix, refs in (("refs/heads/", self.branches), ("refs/tags/", self.tags), ("", self.branches)):
                if revision.startswith(prefix) and revision.removeprefix(prefix) in refs:
                    return self.commits[refs[revision.removeprefix(prefix)]]
            oid = self.tags.get(revision, revision)
            if oid not in self.commits:
                raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            return self.commits[oid]

    def branch(self, revision: str) -> str:
        """The branch a write goes to; tags and commit ids are not writable."""
        name = revision.removeprefix("refs/heads/")
        if name in self.branches:
            return name
        if name in self.tags or name in self.commits:
            raise HubError(400, f"Cannot write to {revision}: it is not a branch")
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def history(self, revision: str) -> list[Commit]:
        """The commits from a revision to the first one, newest first."""
        with self.lock:
            commits = [self.resolve(revision)]
            while commits[-1].parent is not None:
                commits.append(self.commits[commits[-1].parent])
            return commits

    def add_commit(self, branch: str, files: Mapping[str, Entry], title: str, message: str, author: str) -> Commit:
        """Put a commit on top of a branch and move the branch; call with `lock` held."""
        parent = self.branches.get(branch)
        now, folders = int(time.time()), tree_ids(files)
        oid = commit_id(folders[""], [parent] if parent else [], author, now, f"{title}\n\n{message}")
        frozen = MappingProxyType(dict(files))
        commit = Commit(oid, parent, frozen, MappingProxyType(folders), title, message, author, now)
        self.commits[oid] = commit
        self.branches[branch] = oid
        return commit

    def add_ref(self, refs: dict[str, str], name: str, oid: str) -> None:
        """Create a branch or tag; 409 if it exists, 400 if git would not take the name."""
        if not REF.fullmatch(name) or HEX40.fullmatch(name):
            raise HubError(400, f"Invalid reference name: {name}")
        with self.lock:
            if name in refs:
                raise HubError(409, f"Reference already exists: {name}")
            refs[name] = oid

    def delete_ref(self, refs: dict[str, str], name: str) -> None:
        with self.lock:
            if name not in refs:
                raise HubError(404, f"Reference does not exist: {name}", "RevisionNotFound")
            del refs[name]


class Store:
    """Every repo, account and content of one server."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.repos: dict[tuple[str, str], Repo] = {}
        self.accounts: dict[str, Account] = {}  # by token
        self.lock = threading.RLock()
        for folder in ("blobs", "lfs", "xorbs", "parts"):
            (root / folder).mkdir(parents=True, exist_ok=True)

    # contents

    def put(self, folder: str, name: str, content: bytes) -> None:
        """Write a content under its id; it appears whole or not at all."""
        handle, draft = tempfile.mkstemp(dir=self.root)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(draft, self.root / folder / name)

    def get(self, folder: str, name: str) -> bytes:
        return (self.root / folder / name).read_bytes()

    def has(self, folder: str, name: str) -> bool:
        return (self.root / folder / name).exists()

    def put_blob(self, content: bytes) -> Entry:
        entry = regular_entry(content)
        self.put("blobs", entry.blob_id, content)
        return entry

    def put_object(self, repo: Repo, sha256: str, content: bytes) -> None:
        """Take an LFS content after checking its sha256."""
        found = hashlib.sha256(content).hexdigest()
        if found != sha256:
            raise HubError(400, f"The content has sha256 {found}, announced was {sha256}")
        self.put("lfs", sha256, content)
        with repo.lock:
            repo.objects.add(sha256)

    def read(self, entry: Entry) -> bytes:
        return self.get("lfs", entry.sha256) if entry.sha256 else self.get("blobs", entry.blob_id)

    # repos and rights

    def account(self, token: str | None) -> Account | None:
        """None for an anonymous request; 401 for a token nobody was given."""
        if token is None:
            return None
        with self.lock:
            if token not in self.accounts:
                message = "Invalid credentials in Authorization header"
                raise HubError(401, message, headers={"X-Error-Message": message})
            return self.accounts[token]

    def create(self, kind: str, repo_id: str, private: bool, account: Account | None) -> Repo:
        """Make an empty repo with the Hub's first commit (.gitattributes)."""
        namespace, _, name = repo_id.partition("/")
        require_write(account, namespace, f"create a {kind} under the namespace {namespace}")
        if not NAME.fullmatch(name):
            raise HubError(400, f"Invalid repo name: {name}")
        with self.lock:
            if (kind, repo_id) in self.repos:
                raise HubError(409, f"You already created this {kind} repo: {repo_id}")
            repo = Repo(kind, repo_id, private)
            first = {".gitattributes": self.put_blob(GITATTRIBUTES)}
            with repo.lock:
                repo.add_commit("main", first, "initial commit", "", account.user if account else "")
            self.repos[kind, repo_id] = repo
            return repo

    def delete(self, kind: str, repo_id: str, account: Account | None) -> None:
        repo = self.writable(kind, repo_id, account)
        with self.lock:
            del self.repos[repo.kind, repo.id]

    def readable(self, kind: str, repo_id: str, account: Account | None) -> Repo:
        """The repo, if it exists and the account may see it; else the same 404 (401 when anonymous)."""
        with self.lock:
            repo = self.repos.get((kind, repo_id))
        if repo is None or (repo.private and (account is None or repo.namespace not in account.namespaces)):
            if account is None:
                raise HubError(401, "Invalid username or password.", "RepoNotFound")
            raise HubError(404, "Repository not found", "RepoNotFound")
        return repo

    def writable(self, kind: str, repo_id: str, account: Account | None) -> Repo:
        repo = self.readable(kind, repo_id, account)
        require_write(account, repo.namespace, f"write to {kind} {repo_id}", code="RepoNotFound")
        return repo

    @contextmanager
    def head(self, repo: Repo, branch: str, expected: str | None) -> Iterator[Commit]:
        """Hold the repo while a commit is built on `branch`; 412 if its head is not `expected` (None: any)."""
        with repo.lock:
            head = repo.commits[repo.branches[repo.branch(branch)]]
            if expected is not None and head.oid != expected:
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
            yield head


def require_write(account: Account | None, namespace: str, action: str, code: str | None = None) -> None:
    """401 when anonymous, 403 for a read token or a foreign namespace."""
    if account is None:
        raise HubError(401, "Invalid username or password.", code)
    if account.role != "write":
        message = f"You need a token with write rights to {action}"
        raise HubError(403, message, headers={"X-Error-Message": message})
    if namespace not in account.namespaces:
        message = f"You do not have the rights to {action}"
        raise HubError(403, message, headers={"X-Error-Message": message})


def edit(files: Mapping[str, Entry], changes: list[Callable[[dict[str, Entry]], None]]) -> dict[str, Entry]:
    """A copy of a tree with all changes applied; the first that fails leaves nothing behind."""
    edited = dict(files)
    for change in changes:
        change(edited)
    return edited
