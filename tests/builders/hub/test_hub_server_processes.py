"""The test Hub in a process of its own: datasets and hf_xet as users run them, killed clients, remote controls."""

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from hub_clients import BIG, TOKEN, client, environment
from hub_server import RemoteHub, wait_struck
from hub_server.xet import XetError, lz4_frame, read_chunks, read_shard
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

CLIENT = """
import sys
from pathlib import Path
from huggingface_hub import CommitOperationAdd, HfApi
api = HfApi()
files = {path.name: path for path in Path(sys.argv[1]).iterdir()}
operations = [CommitOperationAdd(name, path) for name, path in sorted(files.items())]
operations.append(CommitOperationAdd("bytes.bin", bytes(range(256)) * 200))
api.create_repo("alice/data", repo_type="dataset", exist_ok=True)
made = api.create_commit("alice/data", operations, commit_message="all", repo_type="dataset")
api.create_tag("alice/data", tag="v1", repo_type="dataset")
print(made.oid)
"""
READER = """
import json
from datasets import load_dataset
kinds = {}
for config in ("plain", "other"):
    whole = load_dataset("alice/data", config, revision="v1", split="train")
    stream = load_dataset("alice/data", config, revision="v1", split="train", streaming=True)
    kinds[config] = [whole["x"][:], [row["x"] for row in stream]]
print(json.dumps(kinds))
"""
CARD = """---
license: mit
configs:
- {config_name: plain, default: true, data_files: [{split: train, path: a.parquet}]}
- {config_name: other, data_files: [{split: train, path: b.parquet}]}
---
"""


@pytest.mark.slow
@pytest.mark.parametrize("xet", [False, True], ids=["lfs", "default"])
def test_datasets_loads_by_tag_and_streams(remote: RemoteHub, tmp_path: Path, xet: bool) -> None:
    import polars as pl

    (tmp_path / "files").mkdir()
    for name, rows in (("a", range(2000)), ("b", range(5))):
        frame = pl.DataFrame({"x": list(rows), "text": [f"row {row} " * 9 for row in rows]})
        frame.write_parquet(tmp_path / "files" / f"{name}.parquet", compression="uncompressed")
    (tmp_path / "files" / "README.md").write_text(CARD)
    oid = client(CLIENT, environment(remote.endpoint, tmp_path / "writer", xet), str(tmp_path / "files"))
    uploads, xorbs = remote.log.count("lfs_put"), remote.log.count("xet_xorb")
    assert (uploads, xorbs > 0) == ((0, True) if xet else (3, False))
    for name in ("a.parquet", "b.parquet"):
        url = f"{remote.endpoint}/datasets/alice/data/resolve/{oid}/{name}"
        assert httpx2.get(url).content == (tmp_path / "files" / name).read_bytes()
    url = f"{remote.endpoint}/datasets/alice/data/resolve/v1/bytes.bin"
    assert httpx2.get(url).content == bytes(range(256)) * 200
    read = json.loads(client(READER, environment(remote.endpoint, tmp_path / "reader", xet)))
    assert read == {"plain": [list(range(2000))] * 2, "other": [list(range(5))] * 2}


def test_xet_sends_only_chunks_the_hub_lacks(remote: RemoteHub, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    file, content = tmp_path / "files" / "a.bin", random.Random(1).randbytes(1_000_000)
    uploaded = []
    for home, data in (("one", content), ("two", content), ("three", content[:600_000] + b"new" + content[600_000:])):
        file.write_bytes(data)
        remote.clear_log()
        oid = client(CLIENT.replace("v1", home), environment(remote.endpoint, tmp_path / home, True), str(file.parent))
        uploaded.append(remote.log.uploaded("xet_xorb"))
        assert httpx2.get(f"{remote.endpoint}/datasets/alice/data/resolve/{oid}/a.bin").content == data
    assert uploaded[0] >= len(content) and uploaded[1] == 0 and 0 < uploaded[2] < len(content) / 2


@pytest.mark.parametrize(("xet", "route"), [(False, "lfs_put"), (True, "xet_shard")], ids=["lfs", "default"])
def test_a_killed_client_leaves_no_commit_and_can_run_again(
    remote: RemoteHub, tmp_path: Path, xet: bool, route: str
) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.bin").write_bytes(BIG)
    variables = environment(remote.endpoint, tmp_path / "writer", xet)
    remote.faults.add(route, "delay", seconds=60)
    with subprocess.Popen([sys.executable, "-c", CLIENT, str(tmp_path / "files")], env=variables) as process:
        wait_struck(remote)
        process.send_signal(signal.SIGKILL)
    assert remote.log.count("commit", "tag") == 0
    oid = client(CLIENT, variables, str(tmp_path / "files"))
    assert httpx2.get(f"{remote.endpoint}/datasets/alice/data/resolve/{oid}/a.bin").content == BIG


def test_admin_routes_refuse_what_they_do_not_know(remote: RemoteHub) -> None:
    with pytest.raises(ValueError, match="explode"):
        remote.faults.add("info", "explode")
    remote.faults.add("whoami", 500)
    with pytest.raises(HfHubHTTPError):
        HfApi(endpoint=remote.endpoint, token=TOKEN).whoami()
    assert remote.log.of("whoami")[0].fault == "status 500"
    remote.clear_log()
    assert remote.log.count() == 0


def test_a_xorb_damaged_on_its_way_is_refused_and_replaced(remote: RemoteHub, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.bin").write_bytes(BIG)
    variables = environment(remote.endpoint, tmp_path / "writer", xet=True)
    remote.faults.add("xet_xorb", "corrupt_request")
    command = [sys.executable, "-c", CLIENT, str(tmp_path / "files")]
    assert b"400 Bad Request" in subprocess.run(command, env=variables, capture_output=True).stderr
    assert remote.log.count("commit") == 0
    oid = client(CLIENT, variables, str(tmp_path / "files"))
    assert httpx2.get(f"{remote.endpoint}/datasets/alice/data/resolve/{oid}/a.bin").content == BIG


# Xet formats


def test_lz4_frames_with_matches_and_overlaps() -> None:
    import pyarrow

    rng = random.Random(3)
    for text in (b"", b"a" * 70_000, b"abc" * 5000 + rng.randbytes(300), bytes(rng.choices(b"xyz", k=90_000))):
        assert lz4_frame(pyarrow.Codec("lz4").compress(text, asbytes=True)) == text


def test_broken_xet_bodies_are_refused() -> None:
    with pytest.raises(XetError, match="not a shard"):
        read_shard(b"x" * 100)
    with pytest.raises(XetError, match="ends early"):
        read_chunks(b"\0\x09\0\0\0\x09\0\0abc")
