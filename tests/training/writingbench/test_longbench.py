"""LongBench-Write: its file, its two scores by hand, and through the endpoint."""

from pathlib import Path

import pytest
from writing_benchmark import CHINESE, ENGLISH, write_benchmark, write_lines

from scorers.errors import UserError
from training.pipelines import benchmark, build, load_config
from training.writingbench.longbench import table_row

ROWS = [
    {"prompt": f"{ENGLISH}; write about 6 sentences", "type": "Academic", "length": 60},
    {"prompt": CHINESE, "type": "News", "length": 300},
    {"prompt": f"{ENGLISH}; write about 10 sentences", "type": "Academic", "length": 5_000},
]


def test_the_row_by_hand() -> None:
    queries = [{"index": 1, "words": 100}, {"index": 2, "words": 1_000}, {"index": 3, "words": 600}]
    ratings = {1: {"Relevance": [10], "Clarity": [1]}, 2: {"Relevance": [10]}}
    row = table_row(queries, ratings, {1: 100, 2: 2_500, 3: 400})
    # S_l: 100; 1.5 / 3 off, 50; 0.5 / 2 off, 75. S_q: 5.5 of 1 to 10 is 50, 10 is 100; the third has none.
    assert row == pytest.approx(
        {
            "Overall": 75.0,
            "S_l": 75.0,
            "S_q": 75.0,
            "<500 S_l": 100.0,
            "<500 S_q": 50.0,
            "500-2k S_l": 62.5,
            "500-2k S_q": 100.0,
            "2k-4k S_l": None,
            "2k-4k S_q": None,
            "4k+ S_l": None,
            "4k+ S_q": None,
        }
    )


def test_through_the_endpoint(tmp_path: Path) -> None:
    data = write_lines(tmp_path / "longbench_write.jsonl", ROWS)
    config = load_config("tiny-writingbench", [f"benchmark.data={data}"], str(tmp_path / "store"))
    table = benchmark(config, "longbench-write", ["author"], [], tmp_path / "out")
    scores = table.public["models"][0]["scores"]
    assert table.header[:4] == ["Model", "Overall", "S_l", "S_q"]
    assert scores["4k+ S_l"] == 0.0 and 0 < scores["S_l"] < 100 and 0 <= scores["S_q"] <= 100
    rows = build(config, "benchmark")[-1].revision.scan().collect()
    assert rows["words"].to_list() == [60, 300, 5_000] and rows["language"].to_list() == ["en", "zh", "en"]
    names = [[one["name"] for one in criteria] for criteria in rows["criteria"]]
    assert names[0] == ["Relevance", "Accuracy", "Coherence", "Clarity", "Breadth and Depth", "Reading Experience"]
    assert len(names[1]) == 6
    # The same answers from a file, rated anew.
    answers = [str(tmp_path / "out" / "author.responses.jsonl")]
    other = load_config("tiny-writingbench", [f"benchmark.data={data}"], str(tmp_path / "other"))
    assert benchmark(other, "longbench-write", [], [], tmp_path / "again", answers).rows == table.rows


def test_what_it_does_not_take(tmp_path: Path) -> None:
    data, _ = write_benchmark(tmp_path)
    config = load_config("tiny-writingbench", [f"benchmark.data={data}"], str(tmp_path / "store"))
    with pytest.raises(UserError, match="says not how many words are asked for"):
        benchmark(config, "longbench-write", ["author"], [], tmp_path / "out")
    with pytest.raises(UserError, match="reads no --scores"):
        benchmark(config, "longbench-write", [], ["x.jsonl"], tmp_path / "out")
    with pytest.raises(UserError, match="give --policy REF, --responses FILE or --scores FILE, at least one"):
        benchmark(config, "longbench-write", [], [], tmp_path / "out")
    bad = write_lines(tmp_path / "bad.jsonl", [ROWS[0] | {"length": "long"}])
    config = load_config("tiny-writingbench", [f"benchmark.data={bad}"], str(tmp_path / "store"))
    with pytest.raises(UserError, match="line 1: length is 'long'; a number of words is needed"):
        build(config, "benchmark")
