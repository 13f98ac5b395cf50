"""Labelled pairs in folds, and the texts without an edited form, through the real stages."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.core.runner import StageResult
from builders.rationalign.pairs import fold_of
from builders.store.manifest import Manifest
from scorers.errors import UserError
from training.pipelines import build, load_config, plan

Row = dict[str, Any]


def rows_of(task: str, numbers: Sequence[int]) -> list[Row]:
    return [{"task": task, "source": f"text {k}", "target": f"{task} {k}"} for k in numbers]


# Of both tasks are the texts 20 to 39.
TWO_TASKS = [*rows_of("gec", range(40)), *rows_of("fluency", range(20, 60))]


def config_of(folder: Path, rows: Sequence[Row], *settings: str, store: str = "store") -> Any:
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = f"pairs.sources=[{{source: {file}, columns: {{references: [references]}}}}]"
    if not any("references" in row for row in rows):
        source = f"pairs.sources=[{{source: {file}}}]"
    return load_config("tiny-rationalign", [source, *settings], str(folder / store))


def built(folder: Path, rows: Sequence[Row], stage: str, *settings: str) -> dict[str, StageResult]:
    return {found.stage: found for found in build(config_of(folder, rows, *settings), stage)}


def frame(result: StageResult) -> pl.DataFrame:
    return result.revision.scan().collect()


def manifest(result: StageResult) -> Manifest:
    assert result.revision.manifest is not None
    return result.revision.manifest


def test_equal_sources_of_several_tasks_share_a_fold(tmp_path: Path) -> None:
    rows = frame(built(tmp_path, TWO_TASKS, "pairs")["pairs"])
    folds = rows.group_by("source").agg(pl.col("fold").n_unique(), pl.len())
    assert rows.height == 80 and folds.filter(pl.col("len") == 2).height == 20 and set(folds["fold"]) == {1}
    assert set(rows["fold"]) == {1, 2, 3} and rows["pair_id"].n_unique() == 80


@given(st.text(), st.integers(2, 10))
def test_a_fold_is_one_of_k(source: str, folds: int) -> None:
    assert 1 <= fold_of(source, folds) <= folds


def test_what_several_rows_say_of_a_text_are_its_references(tmp_path: Path) -> None:
    more: list[Row] = [
        {"task": "gec", "source": " text 3 ", "target": "one more", "references": ["gec 3", "two more"]},
        {"task": "clarity", "source": "text 3", "target": "clear"},
    ]
    result = built(tmp_path, [*rows_of("gec", range(20)), *more], "pairs")["pairs"]
    rows = frame(result)
    found = rows.filter(pl.col("source") == "text 3").select("task", "target", "references")
    assert found.sort("task").rows() == [("clarity", "clear", []), ("gec", "gec 3", ["one more", "two more"])]
    assert rows.height == 21 and manifest(result).rows.dropped == {"same text and task as another row": 1}


def test_each_task_has_its_limit(tmp_path: Path) -> None:
    settings = ("pairs.per_task=12", "unlabelled.per_task=7")
    found = built(tmp_path, TWO_TASKS, "unlabelled", *settings)
    for stage, limit in (("pairs", 12), ("unlabelled", 7)):
        assert dict(frame(found[stage])["task"].value_counts().iter_rows()) == {"gec": limit, "fluency": limit}
        rows = manifest(found[stage]).rows
        assert rows.read == rows.written + sum(rows.dropped.values()) == 80
    assert manifest(found["pairs"]).rows.dropped == {"over per_task": 56}


def test_the_order_of_a_file_decides_nothing(tmp_path: Path) -> None:
    """Which rows are drawn and their folds depend on their own texts; a larger limit keeps them and adds others."""
    first, other = (
        set(frame(built(tmp_path, rows, "pairs", "pairs.per_task=9")["pairs"]).drop("references").iter_rows())
        for rows in (TWO_TASKS, TWO_TASKS[::-1])
    )
    larger = frame(built(tmp_path, TWO_TASKS, "pairs", "pairs.per_task=15")["pairs"]).drop("references")
    assert first == other and len(first) == 18 and first < set(larger.iter_rows())


def test_pairs_without_change_are_right_in_gec_alone(tmp_path: Path) -> None:
    same = [{"task": task, "source": f"same {k}", "target": f"same {k}"} for task in ("gec", "clarity") for k in (1, 2)]
    partly = {"task": "clarity", "source": "partly", "target": "partly", "references": ["otherwise"]}
    result = built(tmp_path, [*rows_of("gec", range(20)), *same, partly], "pairs")["pairs"]
    rows = frame(result)
    kept = rows.filter(pl.col("source") == pl.col("target"))
    assert sorted(kept.select("task", "source").iter_rows()) == [
        ("gec", "same 1"),
        ("gec", "same 2"),
    ]
    assert manifest(result).rows.dropped == {"without change": 2}
    assert manifest(result).counts == {"pairs without change": 2}


def test_other_blanks_are_no_edit(tmp_path: Path) -> None:
    """There is no word to give a reason for."""
    blanks = [{"task": task, "source": "I  like it.", "target": "I like it."} for task in ("gec", "clarity")]
    result = built(tmp_path, [*rows_of("gec", range(20)), *blanks], "pairs")["pairs"]
    assert manifest(result).rows.dropped == {"without change": 1}
    assert manifest(result).counts == {"pairs without change": 1}


@pytest.mark.parametrize("numbers", [[1], [1, 2], [k for k in range(40) if fold_of(f"text {k}", 3) != 2]])
def test_sources_that_leave_a_fold_empty(tmp_path: Path, numbers: list[int]) -> None:
    """Sources count, not pairs: each of them stands there for two tasks, and once more."""
    rows = [*rows_of("gec", numbers), *rows_of("clarity", numbers), *rows_of("gec", numbers)]
    message = (
        f"{2 * len(numbers)} pairs with {len(numbers)} distinct sources leave one of 3 folds empty.*; .*pairs.folds"
    )
    with pytest.raises(UserError, match=message):
        built(tmp_path, rows, "pairs")


def test_a_source_without_a_labelled_text(tmp_path: Path) -> None:
    """A word of `where` that is misspelt would leave out a whole task."""
    for name, rows in (("whole", rows_of("gec", range(20))), ("empty", []), ("other", rows_of("clarity", range(3)))):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def sources(second: str) -> list[str]:
        return [f"pairs.sources=[{{source: {tmp_path}/whole.jsonl}}, {second}]"]

    other = f"{{source: {tmp_path}/other.jsonl, where: {{task: Clarity}}}}"
    with pytest.raises(UserError, match=r"other.jsonl has no text with an edited form \(3 rows read: 3 other rows by"):
        build(load_config("tiny-rationalign", sources(other), str(tmp_path / "store")), "pairs")
    with pytest.raises(UserError, match=r"^pairs.sources: .*empty.jsonl has no row; give another file"):
        build(load_config("tiny-rationalign", sources(f"{{source: {tmp_path}/empty.jsonl}}"), str(tmp_path)), "pairs")


def test_two_folds_cannot_be_fewer(tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text(json.dumps(rows_of("gec", [1])[0]) + "\n", encoding="utf-8")
    changed = [f"pairs.sources=[{{source: {tmp_path}/one.jsonl}}]", "pairs.folds=2"]
    with pytest.raises(UserError, match=r"leave one of 2 folds empty; give more labelled texts$"):
        build(load_config("tiny-rationalign", changed, str(tmp_path / "store")), "pairs")


def test_other_blanks_make_no_other_text() -> None:
    assert {fold_of(f"The cat{blanks}sat.", 10) for blanks in (" ", "  ", "\n", "\u00a0")} == {
        fold_of("The cat sat.", 10)
    }


@pytest.mark.parametrize("stage", ["pairs", "unlabelled"])
def test_no_source_is_named(tmp_path: Path, stage: str) -> None:
    with pytest.raises(UserError, match=r"pairs.sources names no source; give labelled texts"):
        build(load_config("tiny-rationalign", ["pairs.sources=[]"], str(tmp_path)), stage)


def test_no_unlabelled_text_is_a_labelled_one_of_any_task(tmp_path: Path) -> None:
    found = built(tmp_path, TWO_TASKS, "unlabelled", "pairs.per_task=12")
    pairs, texts = frame(found["pairs"]), frame(found["unlabelled"])
    labelled = {task: set(pairs.filter(pl.col("task") == task)["source"]) for task in ("gec", "fluency")}
    # Texts that are labelled under one task and are sources of the other one, too.
    both = {f"text {k}" for k in range(20, 40)}
    assert (labelled["gec"] ^ labelled["fluency"]) & both
    assert len(set(texts["source"]) & set(pairs["source"])) == 0
    # All other texts are there.
    rows = {(row["task"], row["source"]) for row in TWO_TASKS if row["source"] not in set(pairs["source"])}
    assert set(texts.select("task", "source").iter_rows()) == rows
    assert manifest(found["unlabelled"]).rows.dropped == {"labelled text": 80 - len(rows)}


def test_unlabelled_texts_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "more.txt"
    file.write_text("text 3\nnew one\n\n  new two  \nnew one\n")
    settings = f"unlabelled.sources=[{{source: {file}, task: clarity}}]"
    result = built(tmp_path, rows_of("gec", range(20)), "unlabelled", settings)["unlabelled"]
    assert sorted(frame(result).select("task", "source").iter_rows()) == [
        ("clarity", "new one"),
        ("clarity", "new two"),
    ]
    dropped = {"labelled text": 21, "blank text": 1, "same text and task as another row": 1}
    assert manifest(result).rows.dropped == dropped


def test_every_text_is_labelled(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"every text .* \(20 read\); give more in unlabelled.sources.*pairs.per_task"):
        built(tmp_path, rows_of("gec", range(20)), "unlabelled")


def test_the_folder_of_a_dataset(tmp_path: Path) -> None:
    """As ITERATER on the Hub: Parquet files, all tasks beside each other in a column."""
    rows = [{"before": f"text {k}", "after": f"new {k}", "kind": "xy"[k % 2]} for k in range(40)]
    (tmp_path / "own" / "data").mkdir(parents=True)
    pl.DataFrame(rows).write_parquet(tmp_path / "own" / "data" / "train-00000-of-00001.parquet")
    source = (
        f"source: {tmp_path / 'own'}, task: fluency, columns: {{source: before, target: after}}, where: {{kind: x}}"
    )
    config = load_config("tiny-rationalign", [f"pairs.sources=[{{{source}}}]"], str(tmp_path / "store"))
    found = frame(build(config, "pairs")[-1]).select("source", "target")
    assert set(found.iter_rows()) == {(f"text {k}", f"new {k}") for k in range(0, 40, 2)}


def test_two_builds_are_equal_and_settings_and_files_make_stale(tmp_path: Path) -> None:
    digests = []
    for store in ("one", "two"):
        config = config_of(tmp_path, TWO_TASKS, "pairs.per_task=9", store=store)
        digests.append([result.revision.digest for result in build(config, "unlabelled")])
    assert digests[0] == digests[1] and len(set(digests[0])) == 2
    assert [one.action for one in plan(config, "unlabelled")] == ["keep", "keep"]
    changed = config_of(tmp_path, TWO_TASKS, "pairs.per_task=8", store="two")
    assert [(one.action, one.reason) for one in plan(changed, "pairs")] == [
        ("build", "configuration changed: pairs.per_task")
    ]
    other = config_of(tmp_path, TWO_TASKS[1:], "pairs.per_task=9", store="two")
    assert [one.action for one in plan(other, "unlabelled")] == ["build", "build"]


def test_the_generated_world(tmp_path: Path) -> None:
    config = load_config("tiny-rationalign", ["pairs.per_task=30", "unlabelled.per_task=40"], str(tmp_path))
    world, pairs, texts = (frame(result) for result in build(config, "unlabelled"))
    assert (pairs.height, texts.height) == (240, 320) and pairs["task"].n_unique() == texts["task"].n_unique() == 8
    assert len(set(pairs["source"]) & set(texts["source"])) == 0 and set(pairs["fold"]) == {1, 2, 3}
    known = {(row["task"], row["source"]): row["references"] for row in world.iter_rows(named=True)}
    assert all(known[row["task"], row["source"]] == [row["target"], *row["references"]] for row in pairs.to_dicts())
    assert {(row["task"], row["source"]) for row in texts.to_dicts()} <= known.keys()
