"""Manifests: canonical bytes, what names a revision, and files that are no manifest."""

import json
from pathlib import Path
from typing import Any

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
    pipeline="grace-kto",
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


def format_1(**changes: object) -> dict[str, Any]:
    """The fields that every manifest of format 1 had; unless changed a real weights dataset's, with one file."""
    return {
        "code_version": "0.1.0",
        "configuration": {
            "calibrate": {
                "binary": False,
                "coefficients": {
                    "diversity": 1.0,
                    "length": 1.0,
                    "ppl_domain": 1.0,
                    "professionalism": 1.0,
                    "relevance_document": 0.8,
                    "relevance_summary": 0.2,
                },
            }
        },
        "counts": {"negative": 286, "positive": 226, "unscored": 90},
        "digest": "7a4efa67751bb2684c94dd9de7e9a6fdefcdf3bc326b1dc8680a7258236f9c88",
        "files": [
            {
                "path": "data/train-00000-of-00008.parquet",
                "rows": 64,
                "sha256": "1651c8946af53ef1a99c5354ae8f59c042f069067d289a4377a5b4474b40d0d4",
                "size": 44069,
            }
        ],
        "fingerprint": "377ba4c7320b2316cd1741dc9d7f649b4cc2f9f510744fe2845a599e76c8cda7",
        "format": 1,
        "kind": "dataset",
        "metrics": {
            "length": {
                "count": 422,
                "max": 201.0,
                "mean": 51.67298578199052,
                "median": 46.0,
                "min": 12.0,
                "null": 90,
                "q10": 24.0,
                "q25": 33.0,
                "q75": 65.0,
                "q90": 86.0,
                "std": 27.812799741732793,
            }
        },
        "models": {},
        "parents": [
            {
                "digest": "0031e2961940cd76760f74ea969f244e39dab1d4e44706263ea762b865a0e125",
                "repo": "local/tiny-scores",
                "revision": "3aa805cbe6ffd25ea92855f59f425eb767244576",
                "stage": "score",
            }
        ],
        "prompts": {},
        "random_seed": 0,
        "repo": "local/tiny-weights",
        "results": {},
        "round": 1,
        "rows": {"dropped": {}, "read": 512, "written": 512},
        "stage": "calibrate",
        "stage_version": 1,
        **changes,
    }


POLICY_1 = format_1(
    configuration={"loop": {"rounds": 4}, "train": {"method": "full", "lora_targets": "all-linear", "mu": 0.5}},
    counts={},
    digest="eecf77d9ee528e7c08db21e9b31c1cec0d9acc6cfe394b1f94ee036f4c6a625e",
    files=[
        {
            "path": "model.safetensors",
            "rows": None,
            "sha256": "fb5799ab58454dd5f615d8d5ebd6f3be3db3abea97fe29f9fcbe022cdf484282",
            "size": 1314048,
        }
    ],
    fingerprint="75cccce63a07518a64e6d0e9131334e0a3530d2669bba7a8b654745a70ed9a12",
    kind="model",
    metrics={},
    models={
        "base": {"id": "local/tiny-sft", "revision": "bdfeee31c6482939db7934c5d75df9a0d5f16c7d"},
        "policy": {"id": "local/tiny-policy", "revision": "d7a1cfd768237f3332705d7be5029e3fe088d73c"},
    },
    parents=[
        {
            "digest": "181a5737642bef10f9261fb46a4716d6da315bb1b4863815b9c600141b0a526d",
            "repo": "local/tiny-weights",
            "revision": "9d96ec0fbe816677ecdb91a3acfacaf5e2d8cca5",
            "stage": "calibrate",
        }
    ],
    repo="local/tiny-policy",
    results={"loss": 0.9264478143304586, "rewards/chosen": -0.04600829854418176, "rows": 512.0},
    round=2,
    stage="train",
)
QUERIES_1 = format_1(
    configuration={
        "engine": {
            "batch_size": 256,
            "context_window": None,
            "device": "cpu",
            "dtype": "float32",
            "kind": "transformers",
            "tensor_parallel": 1,
            "yarn_factor": None,
        },
        "generate": {"examples": 5, "prompt": "generate.tiny", "queries": 64},
    },
    counts={},
    digest="07427db8899c26a2ee1b82a4e4884392cd6aedeec09090af20da225588097204",
    files=[
        {
            "path": "data/train-00000-of-00008.parquet",
            "rows": 8,
            "sha256": "a62f3de675fd29fba97c9b544a34813bfcba71d878a4283c3357460b5a8a988b",
            "size": 3761,
        }
    ],
    fingerprint="e981e89f4f69a86cabc39017bd8cbec1c91831db22d66cbf1dcc28ac9b08720a",
    metrics={},
    models={"policy": {"id": "local/tiny-policy", "revision": "d7a1cfd768237f3332705d7be5029e3fe088d73c"}},
    parents=[
        {
            "digest": "241300926c73aaab3dc06bb29d8403f293a64def9d6b56c7a56313609806aea9",
            "repo": "local/tiny-seed",
            "revision": "c750028823fa9472a841e8c069fe46e8d4182b35",
            "stage": "seed",
        },
        {
            "digest": "0acdf3addf42fb8609a26a9a7945b3a44cac3bfec33de234be0af37f82e8dd04",
            "repo": "local/tiny-queries",
            "revision": "ce735033da7938374dd0d630c36495d66dfecb8b",
            "stage": "queries round-001",
        },
    ],
    prompts={
        "generate.tiny": "{% for example in examples %}{{ example }}\n{% endfor %}Write {{ count }} new requests as a "
        "Python list."
    },
    repo="local/tiny-queries",
    round=2,
    rows={"dropped": {"reply without a list": 3, "surplus": 1}, "read": 36, "written": 64},
    stage="generate",
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
        ("", ["it is no JSON"]),
        ("\ud800", ["it is no JSON"]),
        ("[" * 100_000, ["it is no JSON"]),
        ("[]", ["it: "]),
        ("{}", ["pipeline", "Field required"]),
        (json.dumps(MANIFEST.model_dump() | {"format": "3"}), ["format", "should be 2"]),
        (json.dumps(MANIFEST.model_dump() | {"rows": {"read": "many", "written": 1}}), ["rows.read"]),
        (json.dumps({"format": 2, "evil": 1}), ["pipeline", "Field required"]),
        (json.dumps(MANIFEST.model_dump() | {"parents": [{"stage": "seed", "repo": "a/b"}]}), ["parents.0.kind"]),
    ],
)
def test_what_is_no_manifest(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / FILE_NAME).write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(UserError) as error:
        read_manifest(tmp_path)
    message = str(error.value)
    assert all(
        word in message
        for word in [*words, "manifest.json: not a manifest", "delete its folder and build or fetch the revision again"]
    ), message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"format": 3}, "format 3, this one reads up to 2"),
        ({"format": 12, "stage": None, "shape": "round"}, "format 12, this one reads up to 2"),
        ({"shape": "round"}, "this one does not know its field shape"),
        ({"rows": {"read": 3, "written": 3, "merged": 1}}, "this one does not know its field rows.merged"),
    ],
)
def test_what_a_newer_version_wrote_asks_for_an_upgrade(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    path = tmp_path / FILE_NAME
    path.write_text(json.dumps(MANIFEST.model_dump() | changes))
    with pytest.raises(UserError) as error:
        read_manifest(tmp_path)
    assert str(error.value) == f"{path}: written by a newer version of this project: {why}; upgrade"


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert file_sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def read(folder: Path, value: object) -> Manifest:
    (folder / FILE_NAME).write_text(json.dumps(value, sort_keys=True, indent=1) + "\n", encoding="utf-8")
    found = read_manifest(folder)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("value", "stage", "parents"),
    [
        (format_1(), "calibrate", [("score", "dataset", None)]),
        (POLICY_1, "policy", [("calibrate", "dataset", None)]),
        (QUERIES_1, "generate", [("seed", "dataset", None), ("generate", "dataset", 1)]),
    ],
    ids=["weights", "policy", "queries of the second round"],
)
def test_a_manifest_of_format_1_is_read_as_one_of_format_2(
    tmp_path: Path, value: dict[str, Any], stage: str, parents: list[tuple[str, str, int | None]]
) -> None:
    found = read(tmp_path, value)
    assert (found.format, found.pipeline, found.stage) == (2, "grace-kto", stage)
    assert [(parent.stage, parent.kind, parent.round) for parent in found.parents] == parents
    for parent, before in zip(found.parents, value["parents"], strict=True):
        assert (parent.repo, parent.revision, parent.digest) == (before["repo"], before["revision"], before["digest"])
    same = set(value) - {"format", "stage", "parents", "configuration"}
    assert {name: found.model_dump()[name] for name in same} == {name: value[name] for name in same}
    assert (found.execution, found.bytes_depend_on) == ({}, [])
    engine = value["configuration"].get("engine")
    sections = {name: values for name, values in value["configuration"].items() if name != "engine"}
    if engine is not None:  # transformers never had a use for the number of GPUs
        sections["engines.policy"] = {name: item for name, item in engine.items() if name != "tensor_parallel"}
        sections["random_seed"] = value["random_seed"]
    assert found.configuration == sections
    # Written again it is format 2, and stays what it is.
    assert read(tmp_path, json.loads(found.to_json())) == found


def test_vllms_number_of_gpus_stays_in_the_configuration_of_format_1(tmp_path: Path) -> None:
    engine = {"kind": "vllm", "tensor_parallel": 2}
    found = read(tmp_path, format_1(configuration={"engine": engine}, random_seed=4)).configuration
    assert found == {"engines.policy": engine, "random_seed": 4}
    for odd in ({"engine": "vllm"}, {"engine": None}):
        assert read(tmp_path, format_1(configuration=odd)).configuration == odd


def test_models_among_the_parents_of_format_1_are_known_by_their_stages(tmp_path: Path) -> None:
    (parent,) = format_1()["parents"]
    stages = ("sft", "train", "seed", "queries", "queries round-x", "queries round-012")
    found = read(tmp_path, format_1(parents=[parent | {"stage": stage} for stage in stages]))
    assert [(parent.stage, parent.kind, parent.round) for parent in found.parents] == [
        ("sft", "model", None),
        ("policy", "model", None),
        ("seed", "dataset", None),
        ("queries", "dataset", None),
        ("queries round-x", "dataset", None),
        ("generate", "dataset", 12),
    ]


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"format": 1}, "stage"),
        (format_1(stage=["seed"]), "stage"),
        (format_1(stage=None), "stage"),
        (format_1(parents="none"), "parents"),
        (format_1(parents=["seed"]), "parents.0"),
        (format_1(parents=[{"repo": "a/b", "revision": "c", "digest": "d"}]), "parents.0.stage"),
        (format_1(configuration=["engine"]), "configuration"),
        (format_1(rows=None), "rows"),
        (format_1(pipelines="x"), "pipelines"),
    ],
)
def test_what_is_no_manifest_of_format_1(tmp_path: Path, value: dict[str, Any], where: str) -> None:
    with pytest.raises(
        UserError, match=rf"not a manifest: {where}: .*; delete its folder and build or fetch the revision again"
    ):
        read(tmp_path, value)
