"""Remembering what was hashed, so that every byte of a revision and of a model's folder is read once for that.

A note holds size, time of change and inode of each file, and counts only while all of these are the same: a revision
that was copied, edited or restored is read again. Notes may be deleted at any time.
"""

import contextlib
import hashlib
import json
from pathlib import Path

from builders.store.check import first_fault
from builders.store.files import inside, write_text
from builders.store.manifest import FILE_NAME, Manifest, content_digest, describe_files


def fault_of(manifest: Manifest, root: Path, notes: Path) -> str | None:
    """Say in words what is wrong with a revision's files; None where they are the manifest's.

    Names and sizes are looked at every time. The bytes are hashed where no note says that these very files were whole.

    Args:
        manifest: of the revision.
        root: its folder.
        notes: folder of the notes.
    """
    fault = first_fault(manifest, root, contents=False)
    if fault is not None:
        return fault
    # Before the files are read: one that changes meanwhile then differs from its note.
    found = _stamp(manifest, root)
    if _read(_note(root, notes)) == found:
        return None
    fault = first_fault(manifest, root)
    if fault is None:
        _write(_note(root, notes), found)
    return fault


def remember_whole(manifest: Manifest, root: Path, notes: Path) -> None:
    """Note that a revision is whole, as the caller knows who has just hashed its files."""
    _write(_note(root, notes), _stamp(manifest, root))


def digest_of(folder: Path, notes: Path) -> str:
    """Return the content digest over all files of a folder that has no manifest.

    Args:
        folder: the folder of somebody's model.
        notes: folder of the notes.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    # Before the files are read, as above.
    stamp = {path.relative_to(folder).as_posix(): _of_file(path) for path in files}
    note = _note(folder, notes).with_suffix(".digest.json")
    known = _read(note)
    if isinstance(known, dict) and known.get("files") == stamp:
        return str(known["digest"])
    digest = content_digest(describe_files(folder, files))
    _write(note, {"files": stamp, "digest": digest})
    return digest


def _stamp(manifest: Manifest, root: Path) -> dict[str, list[int]]:
    """Return size, time of change (ns) and inode of the manifest and of each file that it names."""
    stamp = {}
    for name in (FILE_NAME, *(file.path for file in manifest.files)):
        path = inside(root, name)
        if path is not None and path.is_file():
            stamp[name] = _of_file(path)
    return stamp


def _of_file(path: Path) -> list[int]:
    """Return size, time of change (ns) and inode of a file."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ino]


def _note(root: Path, notes: Path) -> Path:
    """Return the path of a folder's note."""
    return notes / f"{hashlib.sha1(str(root.resolve()).encode()).hexdigest()}.json"


def _read(note: Path) -> object:
    """Return what a note holds; None where there is none, or a damaged one."""
    try:
        return json.loads(note.read_bytes()) if note.is_file() else None
    except ValueError:
        return None


def _write(note: Path, found: object) -> None:
    """Write a note."""
    # Without it the files are only hashed again: a full disk or a store that may not be written to must not stop a
    # reader.
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        write_text(note, json.dumps(found))
