"""Files against their manifest: the one comparison of pull, publish and verify."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets_factory import add_dataset, add_model, scores_frame

from builders.store.check import Finding, file_findings, first_fault, require_whole
from builders.store.manifest import DataFile, Manifest, content_digest
from builders.store.revision import Revision
from builders.store.store import Store
from scorers.errors import UserError

FIRST, SECOND = (f"data/train-{n:05d}-of-00002.parquet" for n in range(2))
WEIGHTS = "model.safetensors"


@pytest.fixture
def dataset(tmp_path: Path) -> Revision:
    return add_dataset(Store(tmp_path / "store"), "score", scores_frame(), shards=(4, 4))


@pytest.fixture
def model(tmp_path: Path) -> Revision:
    return add_model(Store(tmp_path / "store"), "local/demo-policy")


def manifest_of(revision: Revision) -> Manifest:
    assert revision.manifest is not None
    return revision.manifest


def findings(revision: Revision) -> list[Finding]:
    return file_findings(manifest_of(revision), revision.path)


def digest_without(revision: Revision, *names: str) -> str:
    return content_digest(file for file in manifest_of(revision).files if file.path not in names)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_what_is_whole_has_no_findings(dataset: Revision, model: Revision) -> None:
    for revision in (dataset, model):
        assert findings(revision) == []
        require_whole(manifest_of(revision), revision.path, str(revision))


def test_a_missing_file_and_a_folder_in_its_place(dataset: Revision) -> None:
    (dataset.path / FIRST).unlink()
    missing = [
        Finding(FIRST, "file", f"{manifest_of(dataset).files[0].size} bytes", "missing"),
        Finding("manifest.json", "digest", manifest_of(dataset).digest, digest_without(dataset, FIRST)),
    ]
    assert findings(dataset) == missing
    (dataset.path / FIRST).mkdir()
    assert findings(dataset) == missing


def test_a_damaged_byte_and_a_cut_end(dataset: Revision) -> None:
    flip(dataset.path / FIRST)
    assert [(f.where, f.what) for f in findings(dataset)] == [(FIRST, "sha256"), ("manifest.json", "digest")]
    path = dataset.path / SECOND
    path.write_bytes(path.read_bytes()[:-1])
    size = manifest_of(dataset).files[1].size
    assert Finding(SECOND, "size", str(size), str(size - 1)) in findings(dataset)


@pytest.mark.parametrize("name", ["data/more.parquet", "data/notes.txt", "elsewhere/deep/rows.parquet"])
def test_a_file_of_a_dataset_that_is_not_listed(dataset: Revision, name: str) -> None:
    (dataset.path / name).parent.mkdir(parents=True, exist_ok=True)
    (dataset.path / name).write_bytes(b"x")
    assert findings(dataset) == [Finding(name, "file", "not listed", "present")]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "code/modeling.py", "rows.parquet"])
def test_a_file_of_a_model_that_is_not_listed(model: Revision, name: str) -> None:
    (model.path / name).parent.mkdir(exist_ok=True)
    (model.path / name).write_bytes(b"x")
    assert findings(model) == [Finding(name, "file", "not listed", "present")]


SIDE = ("README.md", "manifest.json", "figure.png", "figure-weights.png", "figure-reward_by_length.png")


@pytest.mark.parametrize("name", [*SIDE, ".cache/state", ".gitattributes"])
def test_card_figure_manifest_and_hidden_files_need_no_listing(dataset: Revision, model: Revision, name: str) -> None:
    for revision in (dataset, model):
        (revision.path / name).parent.mkdir(exist_ok=True)
        (revision.path / name).write_bytes(b"another one")
        assert findings(revision) == []


@pytest.mark.parametrize("name", ["../../../secret", "/etc/hostname", "data/../../x", "", "a\0b", "..\\x"])
def test_a_path_that_leads_out_is_not_read(dataset: Revision, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    files = [*manifest_of(dataset).files, DataFile(path=name, size=1, sha256="0" * 64)]
    listed = manifest_of(dataset).model_copy(update={"files": files})
    assert file_findings(listed, dataset.path) == [
        Finding(name, "file", "1 bytes", "a path outside the revision, not read")
    ]
    whole = listed.model_copy(update={"digest": content_digest(files)})
    with pytest.raises(UserError, match=r"is a path outside the revision, not read; its manifest names it"):
        require_whole(whole, dataset.path, "x")


def test_links_into_a_cache_are_read_as_the_files_they_stand_for(dataset: Revision, tmp_path: Path) -> None:
    """The Hugging Face cache keeps its files as links to blobs beside the snapshot."""
    (dataset.path / FIRST).rename(tmp_path / "blob")
    os.symlink(tmp_path / "blob", dataset.path / FIRST)
    assert findings(dataset) == []


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def copy(path: Path) -> None:
    path.with_name("copy.parquet").write_bytes(path.read_bytes())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (remove, f"{FIRST} is missing; its manifest names it"),
        (flip, f"{FIRST} is damaged: its SHA-256 is not the manifest's"),
        (cut, f"{FIRST} is damaged: it has {{less}} bytes, {{size}} in its manifest"),
        (copy, "data/copy.parquet is not named in its manifest"),
    ],
)
def test_what_is_not_whole_is_refused_in_one_sentence(
    dataset: Revision, change: Callable[[Path], None], sentence: str
) -> None:
    change(dataset.path / FIRST)
    with pytest.raises(UserError) as error:
        require_whole(manifest_of(dataset), dataset.path, "dataset ns/x@abc")
    size = manifest_of(dataset).files[0].size
    said = sentence.format(less=size - 1, size=size)
    assert str(error.value) == f"dataset ns/x@abc: {said}; pull or build again"


@pytest.mark.parametrize(("change", "seen"), [(remove, True), (cut, True), (copy, True), (flip, False)])
def test_names_and_sizes_alone_tell_all_but_a_changed_byte(
    dataset: Revision, change: Callable[[Path], None], seen: bool
) -> None:
    change(dataset.path / FIRST)
    assert bool(file_findings(manifest_of(dataset), dataset.path, contents=False)) is seen
    assert (first_fault(manifest_of(dataset), dataset.path, contents=False) is not None) is seen


def test_a_hidden_parquet_file_counts_where_its_rows_would_be_read(dataset: Revision) -> None:
    hidden = dataset.path / "data" / ".more.parquet"
    hidden.write_bytes((dataset.path / FIRST).read_bytes())
    assert hidden in dataset.data_files()
    assert findings(dataset) == [Finding("data/.more.parquet", "file", "not listed", "present")]


def test_a_manifest_whose_digest_is_not_that_of_its_files_contradicts_itself(dataset: Revision) -> None:
    wrong = manifest_of(dataset).model_copy(update={"digest": "f" * 64})
    assert file_findings(wrong, dataset.path) == [
        Finding("manifest.json", "digest", "f" * 64, manifest_of(dataset).digest)
    ]
    with pytest.raises(UserError, match=r"^x: manifest.json contradicts itself: its digest is not that of its files; "):
        require_whole(wrong, dataset.path, "x")
