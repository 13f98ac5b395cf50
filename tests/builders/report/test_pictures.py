"""Pictures of a revision: which ones there are, in both formats, with equal bytes for equal data."""

import io
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from importlib.metadata import version
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from builders.cards.figures.drawing import STYLES, fixed_style, new_figure, png
from builders.cards.figures.kinds import TITLES, best_pictures
from builders.report.pictures import pictures_of
from builders.store.manifest import TRAINING_LOG
from builders.store.revision import Revision
from builders.store.training_log import log_text
from scorers.errors import UserError

ROWS = pl.DataFrame(
    {
        "query_id": [f"q{n // 4}" for n in range(16)],
        "length": range(16),
        "reward": [(-1.0) ** n * n / 8 for n in range(16)],
        "weight": [(-1.0) ** n * n / 8 for n in range(16)],
        "label": [n % 2 == 0 for n in range(16)],
    }
)


def dataset(folder: Path, rows: pl.DataFrame) -> Revision:
    folder.mkdir(parents=True, exist_ok=True)
    rows.write_parquet(folder / "rows.parquet")
    return Revision("x/y", "0" * 40, folder, None)


def model(folder: Path, text: str) -> Revision:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TRAINING_LOG).write_text(text, encoding="utf-8")
    return Revision("x/y", "0" * 40, folder, None)


def test_anybodys_dataset_has_the_pictures_that_its_columns_allow(tmp_path: Path) -> None:
    names = [picture.name for picture in pictures_of(dataset(tmp_path / "all", ROWS))]
    assert names == ["weights", "reward_by_length", "metrics"]
    assert [picture.name for picture in pictures_of(dataset(tmp_path / "few", ROWS.select("length")))] == ["metrics"]
    assert pictures_of(dataset(tmp_path / "none", ROWS.select("query_id"))) == []
    assert pictures_of(dataset(tmp_path / "empty", ROWS.clear())) == []
    assert len(pictures_of(dataset(tmp_path / "one", ROWS.head(1)))) == 3
    assert all(picture.title == TITLES[picture.name] for picture in pictures_of(dataset(tmp_path / "all", ROWS)))


def test_a_model_has_the_curves_of_its_log_and_one_without_a_log_has_nothing(tmp_path: Path) -> None:
    rows = [{"step": n, "round": 1, "loss": 1 / n, "kl": 0.1} for n in range(1, 5)]
    assert [p.name for p in pictures_of(model(tmp_path / "a", log_text(rows)))] == ["learning_curves", "margins"]
    assert pictures_of(model(tmp_path / "b", "")) == []
    (tmp_path / "c").mkdir()
    assert pictures_of(Revision("x/y", "0" * 40, tmp_path / "c", None)) == []
    with pytest.raises(UserError, match=r"training_log\.jsonl: not readable as the log of a training: "):
        pictures_of(model(tmp_path / "d", '{"step": "one"'))


def test_both_formats_are_whole(tmp_path: Path) -> None:
    for picture in pictures_of(dataset(tmp_path, ROWS)):
        assert ET.fromstring(picture.svg).tag == "{http://www.w3.org/2000/svg}svg"
        assert b"<dc:date>" not in picture.svg and version("matplotlib").encode() not in picture.svg
        assert Image.open(io.BytesIO(picture.png)).size[0] == 1050
        assert b"Software" not in picture.png and b"tIME" not in picture.png


def test_equal_data_give_equal_bytes_in_any_process_and_whatever_the_users_style(tmp_path: Path) -> None:
    revision = dataset(tmp_path / "data", ROWS)
    (tmp_path / "matplotlibrc").write_text(
        "axes.facecolor: pink\nfont.size: 30\nsvg.fonttype: none\n", encoding="utf-8"
    )
    code = (
        "import hashlib, sys\nfrom pathlib import Path\nfrom builders.report.pictures import pictures_of\n"
        "from builders.store.revision import Revision\n"
        "found = pictures_of(Revision('x/y', '0' * 40, Path(sys.argv[1]), None))\n"
        "print(*(hashlib.sha256(p.svg + p.png).hexdigest() for p in found))"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code, str(revision.path)],
            env={**os.environ, "PYTHONHASHSEED": seed, **style},
            cwd=Path(__file__).parents[3],
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed, style in (("1", {}), ("2", {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}))
    ]
    assert outputs[0] == outputs[1] and len(outputs[0].split()) == 3


def test_the_best_pictures_are_the_first_ones(tmp_path: Path) -> None:
    revision = dataset(tmp_path, ROWS)
    both = [(picture.name, picture.png) for picture in pictures_of(revision)[:2]]
    assert best_pictures(revision, 2) == both and best_pictures(revision, 1) == both[:1]


def test_in_black_and_white_the_series_differ_in_more_than_grey() -> None:
    assert len({style.marker for style in STYLES}) == len({style.hatch for style in STYLES}) == len(STYLES)
    assert len({str(style.line) for style in STYLES}) == len(STYLES)
    with fixed_style():
        figure = new_figure(1.0)
        axes = figure.add_subplot()
        axes.bar([0, 1], [1, 1], color=[STYLES[0].fill, STYLES[1].fill])
        axes.set_axis_off()
        grey = Image.open(io.BytesIO(png(figure))).convert("L")
    levels = [level for level, count in enumerate(grey.histogram()) if count > 5_000]
    assert len(levels) == 3 and levels[1] - levels[0] > 80, "the fills of the first two series, and white"
