"""A full disk: one line, exit status 2, nothing half-written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# A file system of a given size that this process alone sees, where the system lets an ordinary user mount one.
SMALL_DISK = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c"]


def on_small_disk(command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*SMALL_DISK, command], capture_output=True, text=True, check=False, timeout=120)


def mounts() -> bool:
    """Whether the system lets this user mount a small disk."""
    try:
        return on_small_disk("mount -t tmpfs -o size=1m small /mnt").returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not mounts(), reason="the system lets no ordinary user mount a file system")
@pytest.mark.parametrize("kilobytes", [8, 2_000, 12_000])  # a note, the cleaned source, a shard do not fit
def test_a_full_disk_is_one_line_that_names_the_folder(tmp_path: Path, kilobytes: int) -> None:
    source = tmp_path / "seeds.jsonl"
    with source.open("w") as file:
        for number in range(20_000):
            file.write(json.dumps({"query": f"{number} {os.urandom(150).hex()}", "reference": os.urandom(200).hex()}))
            file.write("\n")
    build = Path(sys.executable).with_name("build")
    options = f"--set seed.source={source} --set seed.columns.language=null --set threads=null --store /mnt/store"
    done = on_small_disk(
        f"mount -t tmpfs -o size={kilobytes}k small /mnt && {build} --stage seed {options}; code=$?; "
        "find /mnt -name '*.partial'; exit $code"
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr[-2000:]
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: /mnt/store") and "No space left on device; free room" in line
