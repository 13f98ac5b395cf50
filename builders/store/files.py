"""Files on disk: whole or not at all, identified by their bytes, and never outside the folder they belong to."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

ADAPTER_CONFIG = "adapter_config.json"
"""What makes a model folder a LoRA adapter (PEFT)."""
ADAPTER_WEIGHTS = "adapter_model.safetensors"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block ends without an error, flushed to disk before that.

    A process that is killed leaves what was there before; so does a full disk.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    with replacing(path) as file:
        file.write(text.encode())


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inside(root: Path, name: str) -> Path | None:
    """The path of a file that a manifest or a listing names; None for a name that leads out of the folder."""
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or PurePosixPath(name).is_absolute() or "\\" in name or "\0" in name:
        return None
    return root.joinpath(*parts)
