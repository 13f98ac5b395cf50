"""`grace report` as people and scripts call it."""

import json
import re
from pathlib import Path

import polars as pl
import pytest
from datasets_factory import add_dataset, add_model, plain_frame, scores_frame, weights_frame
from report_pages import groups_in
from typer.testing import CliRunner

from builders.rubrics.columns import RATINGS_COLUMNS
from builders.store.columns import MESSAGES
from builders.store.manifest import Manifest, Rows, content_digest, describe_files
from builders.store.store import Store
from training.cli import app
from training.grace_kto.pipeline import GRACE_KTO
from training.pipelines import PIPELINES, load_config, report


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with two rounds of weights, and what the first was made from; the working directory is beside it."""
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / "store")
    scores = add_dataset(store, "score", scores_frame())
    for round_ in (1, 2):
        add_dataset(store, "calibrate", weights_frame(scores_frame()), round_=round_, parents=[scores])
    return store.root


def called(*args: str, root: Path) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["report", *args, "--store", str(root)])
    return done.exit_code, done.stdout, done.stderr


def test_one_line_for_people_and_one_for_machines(root: Path) -> None:
    code, out, err = called("local/demo-weights@round-001", "local/demo-weights@round-002", "-o", "a.html", root=root)
    size = Path("a.html").stat().st_size
    assert (code, err) == (0, "") and out == f"wrote a.html: {size / 1e6:.1f} MB, all 2 groups shown\n"
    page = Path("a.html").read_text()
    assert page.count("Lineage of local/demo-weights@") == 4  # two tables, each with a name for screen readers
    assert "L: tokens of the document" in page  # what a column means
    code, out, err = called("local/demo-weights", "--json", root=root)
    assert (code, json.loads(out)) == (
        0,
        {"path": "report.html", "bytes": Path("report.html").stat().st_size, "groups": 2, "of": 2},
    )


def test_a_model_and_its_lineage(root: Path) -> None:
    add_model(Store(root), "local/demo-policy", parents=[])
    code, out, err = called("local/demo-policy", root=root)
    assert (code, err) == (0, "") and re.fullmatch(r"wrote report\.html: 0\.\d MB\n", out)
    assert "Lineage of local/demo-policy" in Path("report.html").read_text()


def test_somebody_elses_file(root: Path) -> None:
    pl.DataFrame({"prompt": ["p"], "chosen": ["c"], "rejected": ["r"]}).write_parquet("pairs.parquet")
    code, out, err = called("pairs.parquet", root=root)
    assert (code, err) == (0, "") and "the one group shown" in out
    assert "Lineage" not in Path("report.html").read_text()


def test_mistakes_are_one_line(root: Path) -> None:
    pl.DataFrame({"n": [1]}).write_parquet("numbers.parquet")
    for args, said in (
        (("numbers.parquet",), "has no text to show: it needs query or prompt with response or completion"),
        (("local/demo-wieghts",), "did you mean local/demo-weights?"),
        (("local/demo-weights", "local/demo-weights@round-002"), "stands there twice; name each revision once"),
        (("local/demo-weights", "-o", "store"), "--output store: is a folder; name a file, such as store/report.html"),
        (("local/demo-weights", "--split", "test"), "no split test; it has train alone"),
    ):
        code, out, err = called(*args, root=root)
        assert (code, out) == (2, "") and said in err and err.count("\n") == 1
    assert not Path("report.html").exists()


def test_ratings_show_texts_and_criteria_of_what_they_were_made_from(root: Path, tmp_path: Path) -> None:
    store = Store(root)
    responses = scores_frame([(40, 55)])
    columns = [column.name for column in GRACE_KTO.stage("sample").columns]
    groups = add_dataset(store, "sample", responses.select(columns))
    criteria = plain_frame(GRACE_KTO.stage("criteria").columns, 1).with_columns(
        query_id=pl.lit("query0"), query=pl.lit("Please write about query0.")
    )
    asked = add_dataset(store, "criteria", criteria)
    rated = plain_frame(RATINGS_COLUMNS, 2).with_columns(
        query_id=pl.lit("query0"), response_id=pl.Series(["query0-0", "query0-1"])
    )
    ratings = add_dataset(store, "rate", rated, parents=[asked, groups])
    report(load_config("tiny", [], str(root)), [str(ratings)], tmp_path / "r.html")
    (group,) = groups_in(tmp_path / "r.html")
    assert group["query"] == "Please write about query0." and group["criteria"][0]["name"] == "text"
    found = group["parts"][0]["responses"]
    assert [one["text"] for one in found] == responses["response"].to_list()
    assert [one["ratings"][0]["criterion"] for one in found] == ["text", "text"]


VALUES = {
    pl.String(): "text <b>",
    pl.Boolean(): True,
    pl.Float64(): 1.5,
    MESSAGES: [{"role": "user", "content": "asked"}],
    pl.List(pl.String): ["a", "b"],
    pl.List(pl.Float64): [1.0, 2.0],
}


@pytest.mark.parametrize("name", [f"{p.name} {s.name}" for p in PIPELINES for s in p.stages if s.kind == "dataset"])
def test_every_dataset_of_the_pipelines_has_a_page(name: str, tmp_path: Path) -> None:
    pipeline, stage = name.split()
    columns = next(p for p in PIPELINES if p.name == pipeline).stage(stage).columns
    cells = {
        c.name: [f"id{row}" if c.name.endswith("_id") else VALUES.get(c.dtype, row if c.dtype.is_integer() else None)
                 for row in range(3)]
        for c in columns
    }  # fmt: skip
    staged = tmp_path / "staged"
    (staged / "data").mkdir(parents=True)
    file = staged / "data" / "train-00000-of-00001.parquet"
    pl.DataFrame(cells, schema={c.name: c.dtype for c in columns}).write_parquet(file)
    files = describe_files(staged, [file], {"data/train-00000-of-00001.parquet": 3})
    manifest = Manifest(
        pipeline=pipeline, stage=stage, stage_version=1, code_version="0.1.0", repo="local/demo-x", round=0,
        fingerprint="0" * 64, random_seed=0, configuration={}, rows=Rows(read=3, written=3), files=files,
        digest=content_digest(files),
    )  # fmt: skip
    store = Store(tmp_path / "store")
    revision = store.add(staged, manifest, ["main"])
    written = report(load_config("tiny", [], str(store.root)), [str(revision)], tmp_path / "r.html")
    groups = groups_in(written.path)
    assert written.groups == written.of == len(groups) >= 1
    assert all(group["query"] or group["parts"][0]["fields"] or stage in ("rate", "critique") for group in groups)
    assert "text <b>" not in written.path.read_text()
