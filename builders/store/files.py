"""Files on disk: written whole or not at all, identified by their bytes, and never outside their folder."""

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

ADAPTER_CONFIG = "adapter_config.json"
"""What makes a model folder a LoRA adapter (PEFT)."""
ADAPTER_WEIGHTS = "adapter_model.safetensors"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that replaces `path` when the block ends without an error, after a flush to disk.

    If the process is killed or the disk is full, the old file stays as it was.
    """
    # In the same folder, since a rename is atomic only within a file system; the process id keeps writers apart.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            # Without it a crash of the machine could leave the new name with empty content.
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a small file, whole or not at all."""
    with replacing(path) as file:
        file.write(text.encode())


def link(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where the file system allows no link."""
    try:
        os.link(source, target)
    except OSError as error:
        # EPERM, ENOTSUP: no hard links on this file system; EMLINK: the file has as many as it can have.
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            raise
        shutil.copyfile(source, target)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inside(root: Path, name: str) -> Path | None:
    """Return the path of a file that a manifest or a listing names; None for a name that leads out of the folder.

    Such names come from other people's datasets and are not trusted.
    """
    parts = PurePosixPath(name).parts
    # A backslash separates folders on Windows, and NUL ends a name in C.
    if not parts or ".." in parts or PurePosixPath(name).is_absolute() or "\\" in name or "\0" in name:
        return None
    return root.joinpath(*parts)
