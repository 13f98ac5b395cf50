"""The benchmark's own files and table 3: by hand on a small benchmark, and through the endpoint."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer, choices, running
from writing_benchmark import CHINESE, ENGLISH, QUERIES, query_row, scores_row, write_benchmark, write_lines

from builders.core.evaluation_table import EvaluationTable
from builders.report.text_tables import latex, markdown
from scorers.errors import UserError
from training.pipelines import benchmark, build, load_config
from training.writingbench.evaluate import by_length, lacking
from training.writingbench.scores import columns_of, interval, read_responses, read_scores, score, write_scores


def compared(
    folder: Path, policies: list[str], scores: list[Path], *settings: str, responses: list[Path] | None = None
) -> EvaluationTable:
    data, requirements = write_benchmark(folder / "data")
    given = [f"benchmark.data={data}", f"benchmark.requirements={requirements}", *settings]
    config = load_config("tiny-writingbench", given, str(folder / "store"))
    files = [str(path) for path in responses or []]
    return benchmark(config, "writingbench", policies, [str(path) for path in scores], folder / "out", files)


SCORES = [
    scores_row(3, Length=[4], Form=[8], **{"on topic": [9]}),  # mean 7
    scores_row(5, Length=[6, 8], Facts=[10]),  # mean 8
    scores_row(8, Tone=[2], Length=[9], **{"on topic": [None]}),  # mean 5.5, one evaluation without a score
]


def test_the_columns_of_table_3_by_hand(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "mine.jsonl", SCORES)
    table = compared(tmp_path, [], [path])
    [row] = table.rows
    assert dict(zip(table.header, row, strict=True)) == {
        "Model": "mine",
        "Total": "7.00",  # (4+8+9 + 6+8+10 + 2+9) / 8: every evaluation counts alike
        "ZH": "8.00",
        "EN": "6.25",  # (7 + 5.5) / 2
        "Politics & Law": "5.50",
        "Education": "7.50",  # (7 + 8) / 2
        "style R": "5.50",
        "style C": "2.00",
        "format R": "7.00",
        "format C": "6.00",  # (8 + 4) / 2
        "length R": "6.25",
        "length C": "6.50",  # (4 + 9) / 2: query 5 is not in the subset
    }
    [record] = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert record["queries"] == 3
    found = {(one["domain"], one["subdomain"]): one["score"] for one in record["subdomains"]}
    assert found == {
        ("Education", "Lesson Plan"): 7.0,
        ("Education", "Coursework"): 8.0,
        ("Politics & Law", "White Paper"): 5.5,
    }
    assert record["intervals"]["EN"][0] < 6.25 < record["intervals"]["EN"][1]
    assert (tmp_path / "out" / "benchmark.md").read_text().startswith("| Model | Total | ZH |")


def test_a_query_that_was_not_rated_is_left_out(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "half.jsonl", SCORES[:1])
    table = compared(tmp_path, [], [path])
    row = dict(zip(table.header, table.rows[0], strict=True))
    assert (row["Total"], row["ZH"], row["EN"], row["style C"]) == ("7.00", "–", "7.00", "–")
    assert table.lines == [
        "half: 1 of 3 queries have a score.",
        "half: 2 of 5 criteria have no score and are left out of every mean.",
    ]


def test_an_interval_is_that_of_the_number_beside_it() -> None:
    """Of the total every rating counts alike, also where one query has a hundred of them."""
    queries: list[dict[str, Any]] = [
        {"index": k, "domain": "Total", "language": "en", "requirements": [], "required_criteria": []} for k in range(3)
    ]
    scores = {0: {"a": [10] * 100}, 1: {"a": [2]}, 2: {"a": [3]}}
    total, english, domain = columns_of(queries)
    assert [column.name for column in (total, english, domain)] == ["Total", "EN", "domain Total"]
    assert score(total, scores) == pytest.approx(1005 / 102) and score(domain, scores) == pytest.approx(5.0)
    for column in (total, english, domain):
        found = interval(column, scores)
        assert found.value == pytest.approx(score(column, scores))
        assert found.low is not None and found.high is not None and found.low <= (found.value or 0) <= found.high


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (scores_row(99, Length=[7]), "index 99 is not in the benchmark; give scores of its 3 queries"),
        (
            scores_row(3, Loudness=[7]),
            r"index 3 has scores of 'Loudness', which is none of its criteria \(Form, Length",
        ),
        (scores_row(3, Length=[None]), "holds no score"),
    ],
)
def test_scores_of_something_else(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compared(tmp_path, [], [write_lines(tmp_path / "x.jsonl", [row])])


def test_the_tables_of_the_paper_come_out_as_they_are_printed() -> None:
    """Rows of table 3 as they stand in the paper, as Markdown and LaTeX."""
    header = ["Model", "Total", "ZH", "EN", "D1", "D2"]
    rows = [["Deepseek-R1", "8.6", "8.7", "8.5", "8.5", "8.5"], ["o1_preview & co", "8.2", "8.1", "8.2", "8.0", "–"]]
    assert markdown(header, rows).splitlines() == [
        "| Model | Total | ZH | EN | D1 | D2 |",
        "| --- | --- | --- | --- | --- | --- |",
        "| Deepseek-R1 | 8.6 | 8.7 | 8.5 | 8.5 | 8.5 |",
        "| o1_preview & co | 8.2 | 8.1 | 8.2 | 8.0 | – |",
    ]
    assert latex(header, rows).splitlines() == [
        r"\begin{tabular}{lrrrrr}",
        r"\toprule",
        r"Model & Total & ZH & EN & D1 & D2 \\",
        r"\midrule",
        r"Deepseek-R1 & 8.6 & 8.7 & 8.5 & 8.5 & 8.5 \\",
        r"o1\_preview \& co & 8.2 & 8.1 & 8.2 & 8.0 & -- \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_scores_by_length() -> None:
    scores = {1: {"a": [2]}, 2: {"a": [4]}, 3: {"a": [8]}}
    found = by_length({1: 10, 2: 999, 3: 5_000, 4: 2_000}, scores)
    assert found == {"<1000": 3.0, "1000-3000": None, "3000-5000": None, "5000+": 8.0}


def test_models_answer_and_are_rated_through_the_endpoint(tmp_path: Path) -> None:
    rated = write_lines(tmp_path / "other.jsonl", SCORES)
    found = compared(tmp_path, ["author"], [rated], "rate.attempts=5")
    assert [row[0] for row in found.rows] == ["author", "other"]
    # What was written can be read again, and gives the same row.
    out = tmp_path / "out"
    assert {p.name for p in out.iterdir()} == {
        *("benchmark.json", "benchmark.md", "benchmark.csv", "benchmark.tex"),
        *("benchmark.png", "benchmark.svg"),
        *("author.responses.jsonl", "author.scores.jsonl"),
    }
    assert set(read_responses(out / "author.responses.jsonl")) == {3, 5, 8}
    scores = read_scores(out / "author.scores.jsonl")
    assert set(scores) == {3, 5, 8} and all(len(names) == 5 for names in scores.values())
    image = (out / "benchmark.png").read_bytes()
    assert image.startswith(b"\x89PNG") and len(image) > 10_000
    again = compared(tmp_path / "again", [], [out / "author.scores.jsonl"])
    assert again.rows[0][1:] == found.rows[0][1:]
    # The judge's numbers, by its own rules: the queries are of the world but for the Chinese one.
    assert found.public["models"][0]["by_response_length"]["<1000"] is not None
    assert found.lines == [
        "Rated by teacher; scores of different judges do not compare.",
        "other: 8 of 15 criteria have no score and are left out of every mean.",
    ]
    assert compared(tmp_path / "once more", ["author"], [], "rate.attempts=5").rows[0] == found.rows[0]


def test_a_second_run_asks_nobody(tmp_path: Path) -> None:
    compared(tmp_path, ["author"], [])
    data, requirements = write_benchmark(tmp_path / "data")
    given = [
        f"benchmark.data={data}",
        f"benchmark.requirements={requirements}",
        "name=tiny-writing-author",
        "respond.responses=1",
    ]
    results = build(load_config("tiny-writingbench", given, str(tmp_path / "store")), "rate")
    assert not any(result.built for result in results)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": None}, r"line 2: no query; a query has index, domain1, domain2, query, checklist"),
        ({"index": 3}, r"line 2: index 3 stands there twice"),
        ({"query": ENGLISH}, r"line 2: its query stands there twice"),
        ({"index": "five"}, r"line 2: index is 'five', a whole number is needed"),
        ({"index": True}, r"line 2: index is True, a whole number is needed"),
        ({"index": 10**30}, r"line 2: index is 1000000000000000000000000000000, a whole number is needed"),
        ({"index": -5}, r"line 2: index is -5, a whole number is needed, 0 or more"),
        ({"domain1": 7}, r"line 2: domain1 is no text"),
        ({"checklist": []}, r"line 2: its checklist has not 5 criteria"),
        ({"checklist": "__import__('os')"}, r"line 2: its checklist has not 5 criteria"),
    ],
)
def test_a_benchmark_that_is_not_one(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    rows = [query_row(*query) for query in QUERIES]
    rows[1] |= change
    path = write_lines(tmp_path / "benchmark.jsonl", rows)
    config = load_config("tiny-writingbench", [f"benchmark.data={path}"], str(tmp_path / "store"))
    with pytest.raises(UserError, match=message):
        build(config, "benchmark")


def test_a_checklist_as_the_text_of_a_list(tmp_path: Path) -> None:
    rows = [query_row(*QUERIES[1])]
    rows[0] |= {"checklist": repr(rows[0]["checklist"]), "index": "5"}
    path = write_lines(tmp_path / "benchmark.jsonl", rows)
    config = load_config("tiny-writingbench", [f"benchmark.data={path}"], str(tmp_path / "store"))
    [row] = build(config, "benchmark")[-1].revision.scan().collect().iter_rows(named=True)
    assert (row["index"], row["language"], row["query"]) == (5, "zh", CHINESE)
    assert [criterion["name"] for criterion in row["criteria"]][:2] == ["Length", "Facts"]


def test_subsets_that_do_not_belong_to_it(tmp_path: Path) -> None:
    _, requirements = write_benchmark(tmp_path)
    path = requirements / "style" / "style_subset_C.jsonl"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"Tone"', '"Voice"'), encoding="utf-8")
    config = load_config(
        "tiny-writingbench",
        [f"benchmark.data={tmp_path / 'benchmark_all.jsonl'}", f"benchmark.requirements={requirements}"],
        str(tmp_path / "store"),
    )
    with pytest.raises(UserError, match=r"style_subset_C.jsonl, line 1: its query has no criterion 'Voice'"):
        build(config, "benchmark")
    path.write_text(text.replace('"index": 8', '"index": 80'), encoding="utf-8")
    with pytest.raises(UserError, match=r"style_subset_C.jsonl, line 1: index 80 is not in the benchmark"):
        build(config, "benchmark")
    path.write_text(text + text, encoding="utf-8")
    with pytest.raises(UserError, match=r"style_subset_C.jsonl, line 2: index 8 stands there twice"):
        build(config, "benchmark")
    path.write_text(text.replace('"index": 8', '"index": 3'), encoding="utf-8")
    with pytest.raises(UserError, match=r"style_subset_C.jsonl, line 1: index 3 is not in style_subset.jsonl"):
        build(config, "benchmark")
    path.unlink()
    with pytest.raises(UserError, match=r"of style there is one of style_subset.jsonl and style_subset_C.jsonl"):
        build(config, "benchmark")
    (requirements / "style" / "style_subset.jsonl").unlink()
    [row] = [row for row in build(config, "benchmark")[-1].revision.scan().collect().to_dicts() if row["index"] == 8]
    assert row["requirements"] == ["length"]
    shutil.rmtree(requirements)
    requirements.mkdir()
    with pytest.raises(UserError, match=r"no subset such as style_subset.jsonl in it"):
        build(config, "benchmark")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"index": 3, "scores": {"Tone": [{"score": 11}]}}, "Tone: score is 11; a whole number from 1 to 10"),
        ({"index": 3, "scores": {"Tone": [{"score": True}]}}, "Tone: score is True"),
        ({"index": 3, "scores": {"Tone": [{"score": 7.5}]}}, "Tone: score is 7.5"),
        ({"index": 3, "response": "x"}, "line 1: no scores"),
        ({"scores": {}}, "line 1: index is None"),
    ],
)
def test_a_file_of_scores_that_is_not_one(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_scores(write_lines(tmp_path / "x.jsonl", [row]))


def test_a_line_that_stands_there_twice_does_not_count_twice(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="index 3 stands there twice; leave one out, or it counts twice"):
        read_scores(write_lines(tmp_path / "x.jsonl", [SCORES[0], SCORES[0]]))


def test_scores_are_written_as_the_benchmark_has_them(tmp_path: Path) -> None:
    rows = [
        {"index": 3, "criterion": "Tone", "score": 7, "reason": "ja: 是"},
        {"index": 3, "criterion": "Tone", "score": None, "reason": None},
        {"index": 5, "criterion": "Form", "score": 1, "reason": None},
    ]
    write_scores(tmp_path / "x.jsonl", rows)
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines == [
        {"index": 3, "scores": {"Tone": [{"score": 7, "reason": "ja: 是"}]}},
        {"index": 5, "scores": {"Form": [{"score": 1, "reason": ""}]}},
    ]


def test_half_a_character_and_other_files(tmp_path: Path) -> None:
    rows = [query_row(*query) for query in QUERIES]
    path = tmp_path / "benchmark.jsonl"
    path.write_text(json.dumps(rows[0]).replace("rural", "\\ud83d"))
    config = load_config("tiny-writingbench", [f"benchmark.data={path}"], str(tmp_path / "store"))
    with pytest.raises(UserError, match="line 1: holds half a surrogate pair"):
        build(config, "benchmark")
    other = write_lines(tmp_path / "benchmark.csv", rows)
    config = load_config("tiny-writingbench", [f"benchmark.data={other}"], str(tmp_path / "store"))
    with pytest.raises(UserError, match=r".csv; the benchmarks' files of JSON lines are read, .jsonl"):
        build(config, "benchmark")
    long = write_lines(tmp_path / "long.jsonl", [{"prompt": "Write.", "type": "News", "length": 9}])
    config = load_config("tiny-writingbench", [f"benchmark.data={long}"], str(tmp_path / "store"))
    with pytest.raises(UserError, match="is a file of LongBench-Write; `grace benchmark longbench-write` reads it"):
        benchmark(config, "writingbench", ["author"], [], tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file, a folder is needed"):
        benchmark(config, "writingbench", ["author"], [], tmp_path / "file")


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    config = load_config("tiny-writingbench", [], str(tmp_path / "store"))
    with pytest.raises(UserError, match="give --policy REF, --responses FILE or --scores FILE"):
        benchmark(config, "writingbench", [], [], tmp_path)
    with pytest.raises(UserError, match="two models are called author"):
        benchmark(config, "writingbench", ["author", "x/author"], [], tmp_path)
    with pytest.raises(UserError, match=r"benchmark.data is null; set it to the benchmark's file"):
        benchmark(config, "writingbench", ["author"], [], tmp_path)
    with pytest.raises(UserError, match="pipeline writingbench has no benchmark writing, did you mean writingbench"):
        benchmark(config, "writing", ["author"], [], tmp_path)
    with pytest.raises(
        UserError, match="pipeline grace-kto has no benchmark writingbench; --config tiny-writingbench has"
    ):
        benchmark(load_config("tiny"), "writingbench", ["author"], [], tmp_path)


def test_answers_from_elsewhere_are_rated_as_a_models_own(tmp_path: Path) -> None:
    own = compared(tmp_path / "own", ["author"], [], "rate.attempts=5")
    files = tmp_path / "own" / "out"
    lines = (files / "author.responses.jsonl").read_text(encoding="utf-8").splitlines()
    part = tmp_path / "part.jsonl"
    part.write_text(lines[0] + "\n", encoding="utf-8")
    found = compared(tmp_path, [], [], "rate.attempts=5", responses=[files / "author.responses.jsonl", part])
    assert found.rows[0] == own.rows[0] and found.rows[1][0] == "part"
    assert found.lines == [own.lines[0], "part: 1 of 3 queries have a score; 2 without an answer."]
    out = tmp_path / "out"
    for kind in ("responses", "scores"):
        assert (out / f"author.{kind}.jsonl").read_bytes() == (files / f"author.{kind}.jsonl").read_bytes()
    # A second run rates nothing again.
    [manifest] = (tmp_path / "store").glob("datasets--local--*-author-ratings/snapshots/*/manifest.json")
    before = manifest.stat().st_mtime_ns
    assert compared(tmp_path, [], [], "rate.attempts=5", responses=[files / "author.responses.jsonl"]).rows == own.rows
    [manifest] = (tmp_path / "store").glob("datasets--local--*-author-ratings/snapshots/*/manifest.json")
    assert manifest.stat().st_mtime_ns == before


def test_a_judge_of_whom_nothing_can_be_read(tmp_path: Path) -> None:
    answers = write_lines(tmp_path / "mine.jsonl", [{"index": 3, "response": "A text."}])
    models = [{"id": "scribe", "owned_by": "us", "created": 1}]
    with running(ChatServer(lambda body: (200, choices("I would rather not.")), models)) as server:
        judge = f"engines.judge={{kind: openai, base_url: '{server.url}'}}"
        message = r"mine: none of 5 ratings has a score; look at the judge's replies, or name another models.judge"
        with pytest.raises(UserError, match=message):
            compared(tmp_path, [], [], judge, "models.judge=scribe", responses=[answers])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"index": 4, "response": "x"}', "index 4 is not in the benchmark; give responses to its 3 queries"),
        ('{"index": 3, "response": 7}', 'line 1: no response; a line is {"index": 1, "response": "…"}'),
        ('{"index": 3, "response": "x"}\n{"index": 3, "response": "y"}', "line 2: index 3 stands there twice"),
        ("", "holds no response; give a file of responses"),
    ],
)
def test_a_file_of_responses_that_is_not_one(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(message)):
        compared(tmp_path, [], [], responses=[path])


def test_why_queries_have_no_score() -> None:
    assert lacking("m", 9, 4, None) == "m: 4 of 9 queries have a score."
    answers = dict.fromkeys(range(6), 100)
    assert lacking("m", 9, 4, answers) == (
        "m: 4 of 9 queries have a score; 3 without an answer, 2 answered, and no rating could be read."
    )
    assert lacking("m", 6, 4, answers).endswith("a score; 2 answered, and no rating could be read.")


def test_a_dataset_in_place_of_the_file(tmp_path: Path) -> None:
    from datasets import Dataset

    data, _ = write_benchmark(tmp_path)
    rows = [query_row(*query) for query in QUERIES]
    Dataset.from_list(rows).to_parquet(str(tmp_path / "folder" / "data" / "train-00000-of-00001.parquet"))
    found = []
    for source in (data, tmp_path / "folder"):
        config = load_config("tiny-writingbench", [f"benchmark.data={source}"], str(tmp_path / f"store-{source.stem}"))
        found.append(build(config, "benchmark")[-1].revision.scan().collect())
    assert found[0].equals(found[1])
