"""Files on disk: written whole or not at all, identified by their bytes, and never outside their folder."""

import contextlib
import errno
import hashlib
import io
import os
import platform
import re
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from scorers.errors import UserError

ADAPTER_CONFIG = "adapter_config.json"
"""What makes a model folder a LoRA adapter (PEFT)."""
ADAPTER_WEIGHTS = "adapter_model.safetensors"


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a full disk, a quota, a limit on the size of files
#: How libraries written in Rust report an error of the system; torch, in C++, names the file of its own writer.
_SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)|inline_container\.cc")


@contextlib.contextmanager
def naming_full_disk(folder: Path) -> Iterator[None]:
    """Let an error of a full disk name the folder, whatever library met it; every other error passes as it is.

    Raises:
        OSError: the disk is full, or a quota or a limit on the size of files is reached; the folder is its file name.
    """
    try:
        yield
    except Exception as error:  # safetensors and tokenizers raise classes of their own, tokenizers a bare Exception
        code = error.errno if isinstance(error, OSError) else None
        if code is None and (found := _SYSTEM_ERROR.search(str(error))):
            code = int(found[1] or errno.ENOSPC)
        if code not in NO_ROOM:
            raise
        raise OSError(code, os.strerror(code), str(folder)) from error


class ArrowSink(io.RawIOBase):
    """Takes what Arrow writes to a file and keeps a failure for later.

    Arrow writes its last bytes in a destructor, where an error, such as that of a full disk, aborts the process. So it
    is never told of one: what follows is dropped, and `arrow_sink` raises the error once Arrow is done.
    """

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self.error: OSError | None = None

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any) -> int:
        """Write bytes, or drop them after a failure."""
        if self.error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self.error = error
        return memoryview(data).nbytes

    def require_written(self) -> None:
        """Raise the failure, if there was one; to be called between writes where many follow.

        Raises:
            OSError: the first one.
        """
        if self.error is not None:
            raise self.error


@contextlib.contextmanager
def arrow_sink(file: BinaryIO) -> Iterator[ArrowSink]:
    """Yield what Arrow's writers are given in place of an open file.

    Raises:
        OSError: if a write failed, once the block has ended.
    """
    sink = ArrowSink(file)
    try:
        yield sink
    finally:
        sink.require_written()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that replaces `path` when the block ends without an error, after a flush to disk.

    If the process is killed or the disk is full, the old file stays as it was.

    Raises:
        OSError: of a full disk, with the folder as its file name.
    """
    with naming_full_disk(path.parent), _replacing(path) as file:
        yield file


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    # In the same folder, since a rename is atomic only within a file system; machine and process keep writers apart.
    partial = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.partial")
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


def require_folder(output: Path) -> None:
    """Check that a folder can be written into, or made.

    Raises:
        UserError: a file stands in its place, or in the place of a folder above it, or it cannot be written into.
    """
    if output == Path():
        raise UserError("--output: no folder is named; give one, such as results")
    for path in (output, *output.parents):
        if path.is_dir():
            if not os.access(path, os.W_OK):
                raise UserError(f"--output {output}: {path} cannot be written into; give another folder")
            return
        if os.path.lexists(path):
            raise UserError(f"--output {output}: {path} is a file, a folder is needed; give another name")
