"""A lineage as a table: each revision once, above what it was made from."""

import json
from pathlib import Path

import pytest
from lineage_chains import chain_of

from builders.inspect.lineage import lineage
from builders.report.as_json import traced
from builders.report.console import print_lineage
from builders.report.lineage import lineage_rows, spans
from builders.store.store import Store


def test_the_rows_of_a_round(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    weights = chain_of(store, 1).made["calibrate", 1]
    rows = lineage_rows(lineage("local/demo-weights@round-001", store))
    assert [(name, revision.split("@")[0], rows, above) for name, revision, rows, above in rows] == [
        ("calibrate 1", "local/demo-weights", 8, "score 1"),
        ("score 1", "local/demo-scores", 8, "sample 1, domain: world:domain, tokenizer: sft"),
        ("sample 1", "local/demo-groups", 8, "generate 1, policy: sft"),
        ("generate 1", "local/demo-queries", 3, "seed, policy: sft"),
        ("sft", "local/demo-sft", 8, "seed, base: world:domain"),
        ("seed", "local/demo-seed", 3, ""),
        ("", "world:domain", "", ""),
    ]
    assert rows[0][1] == f"{weights.repo}@{weights.revision[:12]}"


def test_every_revision_stands_once_and_above_what_it_was_made_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path / "store")
    chain_of(store, 12)
    nodes = lineage("local/demo-policy", store)
    rows = lineage_rows(nodes)
    place = {revision: number for number, (_, revision, _, _) in enumerate(rows)}
    assert len(place) == len(rows) == len(nodes) == 12 * 5 + 3
    short = {node.id: f"{node.repo}@{node.revision[:12]}" for node in nodes}
    for node in nodes:
        assert all(
            place[short[above]] > place[short[node.id]] for above in (*node.parents.values(), *node.models.values())
        )
    # The queries of a round are made from those of all rounds before it, named in one span.
    assert {name: above for name, _, _, above in rows}["generate 12"] == "seed, policy 11, generate 1–11"
    print_lineage(nodes)
    lines = capsys.readouterr().out.splitlines()
    # Less than two lines a revision; a tree that repeats them had 160 in twelve rounds and 1,223 in forty.
    assert len(lines) < 2 * len(nodes) and max(map(len, lines)) <= 80
    assert len([line for line in lines if "@" in line]) == len(nodes)
    assert len(json.dumps(traced(nodes))) < 1_500 * len(nodes)


def test_spans() -> None:
    assert [spans(numbers) for numbers in ([], [3], [2, 1], [1, 3, 4, 9])] == ["", "3", "1–2", "1, 3–4, 9"]
