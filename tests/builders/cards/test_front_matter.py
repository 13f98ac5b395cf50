"""Front matter: what `datasets` finds in a folder and what the Hub knows."""

from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from card_snapshots import COMMIT, DIGEST, card_of, front_matter, model_manifest, snapshot

from builders.cards.front_matter import (
    arrow_bytes,
    feature,
    language_codes,
    license_fields,
    size_category,
    source_datasets,
)
from builders.cards.render import write_card
from builders.store.columns import column
from builders.store.manifest import Model, Parent, Rows
from builders.store.shards import write_shard
from builders.store.store import Store
from training.grace_kto.pipeline import GRACE_KTO
from training.pipelines import page_of

DATASETS = [stage.name for stage in GRACE_KTO.stages if stage.kind == "dataset"]


@pytest.mark.parametrize("stage_name", DATASETS)
def test_datasets_loads_the_folder_and_agrees_with_the_front_matter(stage_name: str, tmp_path: Path) -> None:
    import datasets

    manifest = snapshot(tmp_path / "snapshot", stage_name)
    write_card(manifest, tmp_path / "snapshot", page_of(manifest), Store(tmp_path / "store"))
    found = datasets.load_dataset(str(tmp_path / "snapshot"), cache_dir=str(tmp_path / "cache"))["train"]
    info = front_matter((tmp_path / "snapshot" / "README.md").read_text(encoding="utf-8"))["dataset_info"]
    assert info["features"] == found.features._to_yaml_list()
    assert found.num_rows == manifest.rows.written == info["splits"][0]["num_examples"]
    without = tmp_path / "without"
    (tmp_path / "snapshot").rename(without)
    (without / "README.md").unlink()
    plain = datasets.load_dataset(str(without), cache_dir=str(tmp_path / "cache2"))["train"]
    assert plain.features._to_yaml_list() == info["features"]
    assert plain.info.splits["train"].num_bytes == info["splits"][0]["num_bytes"] == info["dataset_size"]
    assert info["download_size"] == sum(file.size for file in manifest.files)


def test_bytes_of_several_row_groups_are_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr("builders.store.shards.ROW_GROUP_ROWS", 2)
    manifest = snapshot(tmp_path, "calibrate")
    expected = datasets.load_dataset("parquet", data_dir=str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"))
    info = front_matter(card_of(manifest, tmp_path))["dataset_info"]
    assert expected["train"].info.splits["train"].num_bytes == info["dataset_size"]


def test_bytes_of_large_texts_follow_from_the_footer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = pl.List(pl.Struct({"role": pl.String(), "content": pl.String()}))
    columns = [
        column("text", pl.String(), "a text"),
        column("given", pl.String(), "a text or none", nullable=True),
        column("few", pl.String(), "of few values"),
        column("said", message, "messages"),
        column("number", pl.Float64(), "a number"),
    ]
    long = [f"{k} " * 40 for k in range(12_000)]
    rows = {
        "text": long,
        "given": [None if k % 3 else text for k, text in enumerate(long)],
        "few": ["same " * 40] * len(long),
        "said": [[{"role": "user", "content": text}] for text in long],
        "number": [0.5] * len(long),
    }
    path = tmp_path / "shard.parquet"
    write_shard(pl.DataFrame(rows, schema={c.name: c.dtype for c in columns}), columns, path, {})
    exact = pq.read_table(path).nbytes
    assert arrow_bytes(path) == pytest.approx(exact, rel=2e-3)
    monkeypatch.setattr("builders.cards.front_matter.LARGE", 2**40)
    assert arrow_bytes(path) == pytest.approx(exact, rel=1e-5)  # all of them read, padding apart


def test_datasets_refuses_a_card_with_another_number_of_rows(tmp_path: Path) -> None:
    import datasets
    from datasets.exceptions import DatasetGenerationError
    from datasets.utils.info_utils import NonMatchingSplitsSizesError

    manifest = snapshot(tmp_path / "snapshot", "seed", rows=Rows(read=10, written=8))
    text = card_of(manifest, tmp_path / "snapshot")
    (tmp_path / "snapshot" / "README.md").write_text(text, encoding="utf-8")
    with pytest.raises((NonMatchingSplitsSizesError, DatasetGenerationError)):
        datasets.load_dataset(str(tmp_path / "snapshot"), cache_dir=str(tmp_path / "cache"))


def test_every_column_of_the_contract_has_the_feature_datasets_writes() -> None:
    import datasets

    from builders.store.shards import arrow_schema

    for stage in map(GRACE_KTO.stage, DATASETS):
        expected = datasets.Features.from_arrow_schema(arrow_schema(stage.columns))._to_yaml_list()
        assert [feature(c.name, c.dtype) for c in stage.columns] == expected


@pytest.mark.parametrize("stage_name", DATASETS)
def test_front_matter_is_what_the_hub_knows(stage_name: str, tmp_path: Path) -> None:
    from huggingface_hub import DatasetCard

    manifest = snapshot(tmp_path, stage_name)
    text = card_of(manifest, tmp_path, languages=["en", "zh"])
    card = DatasetCard(text)
    assert str(card) == text
    found = front_matter(text)
    assert found["license"] == "apache-2.0" and found["language"] == ["en", "zh"]
    assert found["size_categories"] == ["n<1K"] and found["task_categories"] == ["text-generation"]
    assert found["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}
    ]
    assert found["tags"] == [
        "grace-kto",
        f"stage-{stage_name}",
        "long-form-writing",
        *{
            "seed": ["writing-prompts"],
            "generate": ["writing-prompts", "synthetic"],
            "sample": ["synthetic"],
            "score": ["synthetic", "preference-data"],
            "calibrate": ["synthetic", "preference-data", "kto", "trl"],
            "format": ["synthetic", "sft", "trl"],
            "criteria": ["rubrics", "synthetic"],
            "rate": ["ratings", "llm-as-a-judge"],
            "answers": ["evaluation", "synthetic"],
            "evaluations": ["evaluation", "llm-as-a-judge"],
            "comparisons": ["evaluation", "llm-as-a-judge", "preference-data"],
        }.get(stage_name, ["synthetic"]),
    ]
    annotated = ("format", "criteria", "rate", "score", "calibrate", "answers", "evaluations", "comparisons")
    assert ("annotations_creators" in found) == (stage_name in annotated)
    assert ("language_creators" in found) == (stage_name in ("generate", "sample", "answers"))


def test_what_a_stage_read_from_outside_is_its_source() -> None:
    def sources(source: str, *parents: Parent, published: bool = False) -> list[str]:
        configuration = {"threads": 1, "seed": {"source": source}} if source else {"threads": 1}
        manifest = model_manifest(
            "seed",
            Model(id="x/y", revision=COMMIT),
            repo="mine/x-seed",
            parents=list(parents),
            configuration=configuration,
        )
        return source_datasets(manifest, published=published)

    assert sources("data/seeds.jsonl") == ["original"]
    assert sources("world:seeds") == ["original"]
    assert sources("somebody/essays@main") == ["somebody/essays"]
    assert sources("") == []
    mine = Parent(stage="seed", kind="dataset", repo="mine/x-seed", revision=COMMIT, digest=DIGEST)
    model = Parent(stage="sft", kind="model", repo="other/x-sft", revision=COMMIT, digest=DIGEST)
    # A model among the parents is no source; what lies beside it in the same namespace is one where it is published.
    assert sources("", mine, model) == []
    assert sources("", mine, model, published=True) == ["mine/x-seed"]
    assert sources("somebody/essays", mine, published=True) == ["mine/x-seed", "somebody/essays"]


def test_licences() -> None:
    assert license_fields("MIT", "a/b", "dataset") == {"license": "mit"}
    assert license_fields("My own: terms\n---", "a/b", "model") == {
        "license": "other",
        "license_name": "my-own-terms",
        "license_link": "https://huggingface.co/a/b#licence",
    }


def test_language_codes_and_sizes() -> None:
    assert language_codes(["zh-CN", "EN", "english", "", "no", "x\n---", "en_GB"]) == ["en", "no", "zh"]
    assert [size_category(n) for n in (0, 999, 1000, 10**6, 10**9)] == [
        "n<1K",
        "n<1K",
        "1K<n<10K",
        "1M<n<10M",
        "1B<n<10B",
    ]
