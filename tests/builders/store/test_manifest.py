"""Manifests: canonical bytes, what names a revision, and files that are no manifest."""

import json
from pathlib import Path

import pytest

from builders.store.files import file_sha256
from builders.store.manifest import (
    FILE_NAME,
    DataFile,
    Manifest,
    Rows,
    content_digest,
    fingerprint_of,
    portable,
    read_manifest,
)
from scorers.errors import UserError

FILES = [DataFile(path="data/b", size=1, sha256="bb"), DataFile(path="data/a", size=2, sha256="aa", rows=3)]
MANIFEST = Manifest(
    stage="score",
    stage_version=1,
    code_version="0.1.0",
    repo="local/x-scores",
    round=1,
    fingerprint="0" * 64,
    random_seed=0,
    configuration={"score": {"ngram": 4}},
    rows=Rows(read=3, written=3, dropped={"blank": 1}),
    files=FILES,
    digest=content_digest(FILES),
)


def test_it_comes_back_and_its_revision_follows_from_its_bytes(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(MANIFEST.to_json(), encoding="utf-8")
    again = read_manifest(tmp_path)
    assert again == MANIFEST
    assert again.revision == MANIFEST.revision and len(again.revision) == 40
    reordered = Manifest.model_validate(dict(reversed(MANIFEST.model_dump().items())))
    assert reordered.to_json() == MANIFEST.to_json()
    assert MANIFEST.model_copy(update={"random_seed": 1}).revision != MANIFEST.revision


def test_it_cannot_hold_a_number_that_json_lacks() -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        MANIFEST.model_copy(update={"results": {"loss": float("nan")}}).to_json()


def test_the_digest_covers_paths_and_bytes_and_no_order() -> None:
    assert content_digest(FILES) == content_digest(FILES[::-1])
    assert content_digest(FILES) != content_digest(FILES[:1])
    renamed = [FILES[0].model_copy(update={"path": "data/c"}), FILES[1]]
    assert content_digest(renamed) != content_digest(FILES)
    swapped = [FILES[0].model_copy(update={"sha256": "aa"}), FILES[1].model_copy(update={"sha256": "bb"})]
    assert content_digest(swapped) != content_digest(FILES)


def test_fingerprints_ignore_the_order_of_keys_only() -> None:
    assert fingerprint_of({"a": 1, "b": [1, 2]}) == fingerprint_of({"b": [1, 2], "a": 1})
    assert fingerprint_of({"a": [1, 2]}) != fingerprint_of({"a": [2, 1]})
    assert fingerprint_of({"a": 1}) != fingerprint_of({"a": "1"})


def test_folders_of_the_machine_are_cut_off() -> None:
    found = portable({"a": "/home/me/data/x.jsonl", "b": ["/opt/m", "ns/x", "./rel/y"], "c": ({"d": "/"}, 3, None)})
    assert found == {"a": "x.jsonl", "b": ["m", "ns/x", "./rel/y"], "c": [{"d": ""}, 3, None]}


def test_a_folder_without_one_is_somebody_elses(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    assert read_manifest(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["it: ", "Invalid JSON"]),
        ("[]", ["it: "]),
        ("{}", ["stage", "Field required"]),
        (json.dumps(MANIFEST.model_dump() | {"format": 2}), ["format", "should be 1"]),
        (json.dumps(MANIFEST.model_dump() | {"rows": {"read": "many", "written": 1}}), ["rows.read"]),
        (json.dumps(MANIFEST.model_dump() | {"evil": 1}), ["evil", "Extra inputs"]),
    ],
)
def test_what_is_no_manifest(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(UserError) as error:
        read_manifest(tmp_path)
    message = str(error.value)
    assert all(word in message for word in [*words, "manifest.json: not a manifest", "fetch the revision again"]), (
        message
    )
    assert "\n" not in message


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert file_sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
