"""Object ids as git computes them: blobs, trees, commits and Git LFS pointers (https://git-scm.com/book/en/v2/Git-Internals-Git-Objects)."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

LFS_VERSION = "https://git-lfs.github.com/spec/v1"


def object_id(kind: str, payload: bytes) -> str:
    """sha1 of `kind size NUL payload`, 40 hex digits."""
    return hashlib.sha1(b"%s %d\0" % (kind.encode(), len(payload)) + payload).hexdigest()


def lfs_pointer(sha256: str, size: int) -> bytes:
    """The text file that git stores in place of an LFS object; `size` in bytes."""
    return f"version {LFS_VERSION}\noid sha256:{sha256}\nsize {size}\n".encode()


@dataclass(frozen=True)
class Entry:
    """One file of a commit: `blob_id` is git's id (of the pointer for LFS), `sha256` is set for LFS files only."""

    size: int  # bytes of the content, not of the pointer
    blob_id: str
    sha256: str | None = None

    @property
    def etag(self) -> str:
        """What downloads are keyed by: the sha256 of LFS files, else the git blob id."""
        return self.sha256 or self.blob_id

    def lfs(self) -> dict[str, object] | None:
        """The `lfs` object of tree rows; None for regular files."""
        if self.sha256 is None:
            return None
        return {"oid": self.sha256, "size": self.size, "pointerSize": len(lfs_pointer(self.sha256, self.size))}


def regular_entry(content: bytes) -> Entry:
    return Entry(size=len(content), blob_id=object_id("blob", content))


def lfs_entry(sha256: str, size: int) -> Entry:
    return Entry(size=size, blob_id=object_id("blob", lfs_pointer(sha256, size)), sha256=sha256)


def tree_ids(files: Mapping[str, Entry]) -> dict[str, str]:
    """Ids of every folder of a flat path -> entry mapping; the root is the key ""."""
    children: dict[str, dict[str, tuple[bytes, str]]] = {"": {}}
    for path, entry in files.items():
        parent, _, name = path.rpartition("/")
        children.setdefault(parent, {})[name] = (b"100644", entry.blob_id)
        while parent:
            parent = parent.rpartition("/")[0]
            children.setdefault(parent, {})
    ids: dict[str, str] = {}
    # Deepest first, so that a folder's id is known when its parent is written.
    for folder in sorted(children, key=lambda f: (f != "", f.count("/")), reverse=True):
        ids[folder] = object_id("tree", _tree_payload(children[folder]))
        if folder:
            parent, _, name = folder.rpartition("/")
            children[parent][name] = (b"40000", ids[folder])
    return ids


def _tree_payload(rows: Mapping[str, tuple[bytes, str]]) -> bytes:
    # git sorts folders as if their names ended with a slash
    def order(row: tuple[str, tuple[bytes, str]]) -> bytes:
        return row[0].encode() + (b"/" if row[1][0] == b"40000" else b"")

    parts = (
        b"%s %s\0" % (mode, name.encode()) + bytes.fromhex(oid) for name, (mode, oid) in sorted(rows.items(), key=order)
    )
    return b"".join(parts)


def commit_id(tree: str, parents: Iterable[str], author: str, time: int, message: str) -> str:
    """Id of a commit; `time` in Unix seconds, UTC."""
    who = f"{author} <{author}@users.noreply.local> {time} +0000"
    head = [f"tree {tree}", *(f"parent {parent}" for parent in parents), f"author {who}", f"committer {who}"]
    return object_id("commit", "\n".join([*head, "", message]).encode())
