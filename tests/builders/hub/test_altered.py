"""Repositories that somebody altered after they were published: one line and nothing in the store, or the same data.

Each case changes the files of a published dataset or model and commits the change, as its owner or a thief of the
owner's token could; the pull then sees a consistent repository whose content is not what the manifest describes.
"""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub_clients import TOKEN
from hub_server import HubServer
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from store_chains import add_dataset, add_model, config_for, files_of

from builders.hub.publish import publish
from builders.hub.pull import pull
from builders.store.manifest import DataFile, Kind, content_digest
from builders.store.ref import Ref
from builders.store.store import Store
from scorers.errors import UserError
from training.pipelines import page_of

Files = dict[str, bytes]
Change = Callable[[Files], None]

FIRST, SECOND = "data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"
MANIFEST, WEIGHTS, ADAPTER = "manifest.json", "adapter_model.safetensors", "adapter_config.json"


def manifest(change: Callable[[dict[str, Any]], None]) -> Change:
    """A change of the manifest's fields."""

    def apply(files: Files) -> None:
        fields = json.loads(files[MANIFEST])
        change(fields)
        files[MANIFEST] = json.dumps(fields).encode()

    return apply


def put(*path: str | int, value: object) -> Change:
    """The manifest with another value at a place, such as ("files", 0, "rows")."""

    def change(fields: Any) -> None:
        for key in path[:-1]:
            fields = fields[key]
        fields[path[-1]] = value

    return manifest(change)


def write(path: str, content: bytes) -> Change:
    return lambda files: files.update({path: content})


def delete(*paths: str) -> Change:
    def apply(files: Files) -> None:
        for path in paths:
            del files[path]

    return apply


def edit(path: str, change: Callable[[bytes], bytes]) -> Change:
    return lambda files: files.update({path: change(files[path])})


def swap(files: Files) -> None:
    files[FIRST], files[SECOND] = files[SECOND], files[FIRST]


def rename(files: Files) -> None:
    files["data/train-00002-of-00002.parquet"] = files.pop(SECOND)


def describe_again(files: Files) -> None:
    """No Parquet in the place of the first shard, and a manifest that says so throughout."""
    files[FIRST] = b"no parquet"
    fields = json.loads(files[MANIFEST])
    fields["files"][0] |= {"sha256": hashlib.sha256(files[FIRST]).hexdigest(), "size": len(files[FIRST])}
    fields["digest"] = content_digest(DataFile(**file) for file in fields["files"])
    files[MANIFEST] = json.dumps(fields).encode()


def add_code(files: Files) -> None:
    files["run.py"] = b"x"
    put("files", 0, "path", value="run.py")(files)


def twice(fields: dict[str, Any]) -> None:
    fields["files"].append(fields["files"][0])


REFUSED: dict[str, tuple[Kind, Change, str]] = {
    "manifest of no bytes": (
        "dataset",
        write(MANIFEST, b""),
        r"manifest\.json: not a manifest: it is no JSON; the dataset's owner has to publish it again",
    ),
    "manifest cut short": ("dataset", edit(MANIFEST, lambda text: text[:-20]), "not a manifest: it is no JSON"),
    "manifest in another encoding": (
        "dataset",
        write(MANIFEST, '{"stage": "é"}'.encode("latin-1")),
        "not a manifest: it is no JSON",
    ),
    "manifest nested without end": ("dataset", write(MANIFEST, b"[" * 200_000), "not a manifest: it is no JSON"),
    "manifest without rows": (
        "dataset",
        manifest(lambda fields: fields.pop("rows")),
        "not a manifest: rows: Field required",
    ),
    "manifest without files": (
        "dataset",
        put("files", value=[]),
        "train-00000-of-00002.parquet is not named in its manifest",
    ),
    "manifest of a model": ("dataset", put("kind", value="model"), "its manifest says it is a model"),
    "manifest of no known kind": (
        "dataset",
        put("kind", value="space"),
        "not a manifest: kind: Input should be 'dataset' or 'model'",
    ),
    "manifest of a later format": (
        "dataset",
        put("format", value=99),
        "newer version of this project: format 99, this one reads up to 2; upgrade",
    ),
    "manifest with an unknown field": (
        "dataset",
        put("colour", value="red"),
        "newer version of this project: this one does not know its field colour; upgrade",
    ),
    "manifest of an unknown pipeline": (
        "dataset",
        put("pipeline", value="../../x"),
        "not a manifest: pipeline: String should match",
    ),
    "manifest of an unknown stage": (
        "dataset",
        put("stage", value="../sample"),
        "not a manifest: stage: String should match",
    ),
    "manifest of another repository": (
        "dataset",
        put("repo", value="../../bob"),
        "not a manifest: repo: String should match",
    ),
    "manifest of a negative round": (
        "dataset",
        put("round", value=-1),
        "not a manifest: round: Input should be greater than or equal to 0",
    ),
    "round that is not a number": (
        "dataset",
        put("round", value="1; rm"),
        "not a manifest: round: Input should be a valid integer",
    ),
    "another digest": (
        "dataset",
        put("digest", value="0" * 64),
        "contradicts itself: its digest is not that of its files",
    ),
    "another hash": ("dataset", put("files", 0, "sha256", value="0" * 64), "contradicts itself"),
    "another size": (
        "dataset",
        put("files", 0, "size", value=3),
        "train-00000-of-00002.parquet is damaged: it has 4748 bytes, 3 in its manifest",
    ),
    "negative size": (
        "dataset",
        put("files", 0, "size", value=-1),
        "not a manifest: files.0.size: Input should be greater than or equal to 0",
    ),
    "another number of rows of a file": (
        "dataset",
        put("files", 0, "rows", value=3),
        "train-00000-of-00002.parquet has 5 rows, 3 in its manifest",
    ),
    "another number of rows": (
        "dataset",
        put("rows", "written", value=8),
        "its files have 9 rows, its manifest says 8",
    ),
    "a file named twice": ("dataset", manifest(twice), "contradicts itself"),
    "a file above the folder": (
        "dataset",
        put("files", 0, "path", value="../../stolen"),
        r"\.\./\.\./stolen is missing; its manifest names it",
    ),
    "a file of the machine": (
        "dataset",
        put("files", 0, "path", value="/etc/passwd"),
        "/etc/passwd is missing; its manifest names it",
    ),
    "a file name with a zero byte": (
        "dataset",
        put("files", 0, "path", value="data/a\0b"),
        "is missing; its manifest names it",
    ),
    "a parent above the store": (
        "dataset",
        put("parents", value=[{"repo": "../../x"}]),
        "not a manifest: parents.0.stage: Field required",
    ),
    "shard cut short": (
        "dataset",
        edit(FIRST, lambda data: data[:-100]),
        r"train-00000-of-00002.parquet is damaged: it has \d+ bytes",
    ),
    "shard of no bytes": ("dataset", write(FIRST, b""), "train-00000-of-00002.parquet is damaged: it has 0 bytes"),
    "shard with a flipped bit": (
        "dataset",
        edit(SECOND, lambda data: data[:50] + bytes([data[50] ^ 1]) + data[51:]),
        "train-00001-of-00002.parquet is damaged: its SHA-256 is not the manifest's",
    ),
    "shard with bytes at its end": (
        "dataset",
        edit(SECOND, lambda data: data + b"more"),
        "train-00001-of-00002.parquet is damaged",
    ),
    "shards swapped": ("dataset", swap, "train-00000-of-00002.parquet is damaged"),
    "shard renamed": ("dataset", rename, "train-00001-of-00002.parquet is missing; its manifest names it"),
    "shard deleted": ("dataset", delete(SECOND), "train-00001-of-00002.parquet is missing"),
    "all shards deleted": ("dataset", delete(FIRST, SECOND), "train-00000-of-00002.parquet is missing"),
    "one shard more": (
        "dataset",
        lambda files: files.update({"data/train-00002-of-00003.parquet": files[FIRST]}),
        "train-00002-of-00003.parquet is not named in its manifest",
    ),
    "shard of other software, described": (
        "dataset",
        describe_again,
        "train-00000-of-00002.parquet is no Parquet file",
    ),
    "model: weights with a flipped bit": (
        "model",
        edit(WEIGHTS, lambda data: data[:-1] + b"!"),
        "adapter_model.safetensors is damaged: its SHA-256 is not the manifest's",
    ),
    "model: weights of no bytes": (
        "model",
        write(WEIGHTS, b""),
        "adapter_model.safetensors is damaged: it has 0 bytes",
    ),
    "model: weights deleted": ("model", delete(WEIGHTS), "adapter_model.safetensors is missing; its manifest names it"),
    "model: another base": (
        "model",
        edit(ADAPTER, lambda text: text.replace(b"Qwen2.5-0.5B", b"Qwen2.5-1.5B")),
        "adapter_config.json is damaged",
    ),
    "model: adapter without configuration": ("model", delete(ADAPTER), "adapter_config.json is missing"),
    "model: a manifest of a dataset": ("model", put("kind", value="dataset"), "its manifest says it is a dataset"),
    "model: a pickle in the manifest": (
        "model",
        put("files", 0, "path", value="pytorch_model.bin"),
        "pytorch_model.bin is missing",
    ),
    "model: code in the manifest": ("model", add_code, "run.py is not fetched; files that are read:"),
}

# What the manifest does not name is not fetched, and what it does not describe is no data.
HARMLESS: dict[str, tuple[Kind, Change]] = {
    "dataset: another card": ("dataset", write("README.md", b"---\nlicense: mit\n---\nNew words.\n")),
    "dataset: no card": ("dataset", delete("README.md")),
    "dataset: a card without a header": ("dataset", write("README.md", b"no header\n")),
    "dataset: code and a pickle": ("dataset", lambda files: files.update({"load.py": b"x", "data/a.pkl": b"x"})),
    "dataset: a table of other software": ("dataset", write("notes.csv", b"a,b\n1,2\n")),
    "model: code and a pickle": ("model", lambda files: files.update({"modeling.py": b"x", "pytorch_model.bin": b"x"})),
    "model: optimizer state of others": ("model", write("optimizer.pt", b"x")),
}


@pytest.fixture
def other(tmp_path: Path) -> Store:
    """The store of somebody else, who pulls."""
    return Store(tmp_path / "other")


def alter(hub: HubServer, store: Store, kind: Kind, change: Change) -> Ref:
    """Publish a dataset or a model, and commit a change of its files; where the changed content is."""
    made = add_dataset(store, "sample")
    if kind == "model":
        made = add_model(store, add_dataset(store, "calibrate"))
    publish(made, config_for(store), page_of)
    repo = "alice/demo-groups" if kind == "dataset" else "alice/demo-policy"
    before = {name: hub.read(repo, name, kind=kind) for name in hub.commit(repo, "main", kind).files}
    after = dict(before)
    change(after)
    assert after != before
    changed = [CommitOperationAdd(name, data) for name, data in after.items() if before.get(name) != data]
    gone = [CommitOperationDelete(name) for name in before.keys() - after.keys()]
    api = HfApi(endpoint=hub.endpoint, token=TOKEN)
    commit = api.create_commit(repo, [*changed, *gone], commit_message="altered", repo_type=kind)
    return Ref(repo, str(commit.oid))


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_manifest_does_not_describe_is_refused(
    connected: HubServer, tmp_path: Path, other: Store, case: str
) -> None:
    kind, change, words = REFUSED[case]
    ref = alter(connected, Store(tmp_path / "store"), kind, change)
    with pytest.raises(UserError) as caught:
        pull(ref, other, kind)
    message = str(caught.value)
    assert "\n" not in message and TOKEN not in message and len(message) < 400
    assert re.match(rf"{kind} {ref.repo}@{ref.revision}: ", message), message
    assert re.search(words, message), message
    assert all(name.endswith(".lock") for name in files_of(other.root))


@pytest.mark.parametrize("case", HARMLESS)
def test_what_is_beside_the_data_does_not_come_and_does_no_harm(
    connected: HubServer, tmp_path: Path, other: Store, case: str
) -> None:
    kind, change = HARMLESS[case]
    store = Store(tmp_path / "store")
    pulled = pull(alter(connected, store, kind, change), other, kind)
    made = store.find(f"local/{pulled.repo.partition('/')[2]}", "round-001", kind)
    assert made is not None and pulled.digest == made.digest
    assert set(files_of(pulled.path)) <= set(files_of(made.path))
