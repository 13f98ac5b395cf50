"""Files that are whole or not at all, and names that stay inside their folder."""

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from builders.store.files import arrow_sink, inside, link, naming_full_disk, replacing, write_text


def test_the_old_file_stays_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "shard.parquet"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("old", [None, b"old"])
def test_an_error_in_the_block_leaves_the_old_file_and_no_partial_one(
    tmp_path: Path, old: bytes | None, error: BaseException
) -> None:
    path = tmp_path / "shard.parquet"
    if old is not None:
        path.write_bytes(old)
    with pytest.raises(type(error)), replacing(path) as file:
        file.write(b"half of it")
        raise error
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == ({} if old is None else {path.name: old})


def test_a_killed_process_leaves_what_was_there_and_the_next_one_is_not_in_its_way(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from builders.store.files import replacing
with replacing(Path(sys.argv[1])) as file:
    file.write(b"half of it")
    file.flush()
    print("open", flush=True)
    sys.stdin.read()
"""
    path = tmp_path / "shard.parquet"
    path.write_bytes(b"old")
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path.cwd()
    )
    assert writer.stdout is not None and writer.stdout.readline() == b"open\n"
    writer.kill()
    writer.communicate()
    assert writer.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    write_text(path, "new")
    assert path.read_bytes() == b"new"
    (left,) = (p.name for p in tmp_path.iterdir() if p != path)
    assert left.startswith(".") and left.endswith(".partial")  # names that the store and a manifest pass over


def test_writing_text_replaces_whole(tmp_path: Path) -> None:
    path = tmp_path / "ref"
    write_text(path, "one")
    write_text(path, "zwei ✓\n")
    assert path.read_bytes() == "zwei ✓\n".encode() and list(tmp_path.iterdir()) == [path]


NAMES = st.text() | st.text(alphabet="ab./\\~\0 é", max_size=20)


@given(NAMES)
@example("../x")
@example("a/../../x")
@example("/etc/passwd")
@example("//etc/passwd")
@example("..")
@example("a\\..\\x")
@example("./.")
def test_a_name_never_leads_out_of_the_folder(name: str) -> None:
    root = Path("/store/snapshot")
    found = inside(root, name)
    if found is not None:
        # Without links a path is what its text says: no part of it goes up, and it is not the folder itself.
        assert os.path.normpath(found).startswith(f"{root}/")
        assert "\\" not in str(found) and "\0" not in str(found)
        assert found.relative_to(root).as_posix() == os.path.normpath(name)


@given(st.lists(st.text(alphabet="ab1_-. é", min_size=1).filter(lambda part: part.strip("."))).filter(bool))
def test_an_ordinary_name_is_found_below_the_folder(parts: list[str]) -> None:
    assert inside(Path("/store"), "/".join(parts)) == Path("/store", *parts)


@pytest.mark.parametrize("name", ["", ".", "..", "/", "/a", "a/..", "../a", "a/../b", "a\\b", "C:\\a", "a\0b"])
def test_what_leads_out_is_refused(name: str) -> None:
    assert inside(Path("/store"), name) is None


def write_safetensors(path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros(100_000)}, path)


def write_tokenizer(path: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({f"word {n}": n for n in range(20_000)}, "word 0")).save(str(path))


def write_torch(path: Path) -> None:
    import torch

    torch.save({"weight": torch.zeros(200_000)}, path)


def write_plainly(path: Path) -> None:
    write_text(path, "text" * 50_000)


@pytest.mark.parametrize("write", [write_safetensors, write_tokenizer, write_torch, write_plainly])
def test_whatever_meets_a_disk_without_room_names_the_folder(tmp_path: Path, write: Callable[[Path], None]) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))  # no file may be larger, as if the disk were full
    try:
        with pytest.raises(OSError) as caught, naming_full_disk(tmp_path):
            write(tmp_path / "file")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno in (errno.EFBIG, errno.ENOSPC) and caught.value.filename == str(tmp_path)


@pytest.mark.parametrize("error", [ValueError("28"), OSError(errno.EIO, "broken"), KeyboardInterrupt()])
def test_every_other_error_passes_as_it_is(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, naming_full_disk(tmp_path):
        raise error
    assert caught.value is error


def test_arrow_is_told_of_no_error_until_it_is_done(tmp_path: Path) -> None:
    class Full:
        written = b""

        def write(self, data: bytes) -> int:
            if len(self.written) + len(data) > 4:
                raise OSError(errno.ENOSPC, "full")
            self.written += data
            return len(data)

    file: Any = Full()
    with pytest.raises(OSError, match="full"), arrow_sink(file) as sink:
        assert sink.write(b"abc") == 3
        sink.require_written()
        assert sink.write(b"defg") == 4 and sink.write(b"h") == 1  # dropped: nothing may follow a gap
        with pytest.raises(OSError, match="full"):
            sink.require_written()
    assert file.written == b"abc"


def test_a_file_that_cannot_be_linked_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"content")
    link(source, tmp_path / "linked")
    assert (tmp_path / "linked").samefile(source)

    def refuse(code: int) -> Callable[..., None]:
        def call(*paths: object) -> None:
            raise OSError(code, "no link")

        return call

    monkeypatch.setattr(os, "link", refuse(errno.EPERM))
    link(source, tmp_path / "copied")
    assert (tmp_path / "copied").read_bytes() == b"content" and not (tmp_path / "copied").samefile(source)
    monkeypatch.setattr(os, "link", refuse(errno.ENOSPC))
    with pytest.raises(OSError, match="no link"):
        link(source, tmp_path / "third")
