"""One policy in several windows: the numbers of each cell, what is shared and kept, and mistakes told at once."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from real_configs import config_on, write_lines
from tiny_models import make_causal_lm, make_reciting_lm

from builders.grace_kto.loading import load_perplexity
from builders.grace_kto.settings import GraceKTOSettings
from builders.store.store import Store
from scorers.errors import UserError
from scorers.perplexity import Perplexity
from training.grace_kto.contexts import short
from training.pipelines import evaluate_contexts

QUERY = "Write about a pier."
DOCUMENT = "The harbour grew, and trade doubled within a decade; prices fell. " * 2 + "Results."
ANSWER = f"<summary>On piers.</summary><outline>1. Background</outline><answer>{DOCUMENT}</answer>"
ALL = ["none", "dynamic", "yarn"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A policy that gives one answer within its window of 256 tokens; a domain model with a window of 128."""
    folder = tmp_path_factory.mktemp("contexts")
    return {
        "policy": make_reciting_lm(folder / "policy", QUERY, ANSWER),
        "domain": make_causal_lm(folder / "domain", window=128),
    }


def reading(folder: Path, models: dict[str, Path], *overrides: str) -> GraceKTOSettings:
    source = write_lines(folder / "piers.jsonl", [json.dumps({"query": QUERY}) + "\n"])
    return config_on(folder, f"evaluate.source={source}", *overrides, **models)


def cells(public: dict[str, Any]) -> dict[tuple[str, int], dict[str, Any]]:
    found = {}
    for cell in public["contexts"]:
        values = {label: estimate["value"] for label, estimate in cell["estimates"].items()}
        found[cell["method"], cell["window"]] = values
    return found


def test_every_cell_is_what_its_models_give_in_that_context(
    tmp_path: Path, models: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    config = reading(tmp_path, models)
    table = evaluate_contexts(config, [str(models["policy"])], tmp_path / "out", [60, 200, 256], ALL)
    found = cells(table.public)
    tokens = None
    for method in ALL:
        for window in (200, 256):
            cell = found[method, window]
            assert (cell["matched"], cell["cut"]) == (1.0, 0.0)
            tokens = tokens or cell["L"]
            assert cell["L"] == tokens > 20
            # Beyond its own window of 128 tokens the domain model reads by the method.
            by = "extrapolation" if method == "none" else method
            expected = Perplexity(models["domain"], window=window, method=by).score([DOCUMENT])[0]
            assert cell["ppl_D"] == cell["ppl_D median"] == pytest.approx(expected, rel=1e-6)
    assert len({round(found[method, 256]["ppl_D"], 4) for method in ALL}) == 3
    # In a window that holds no whole answer each is cut, and within both models' own no method changes anything.
    assert all(found[method, 60] == found["none", 60] for method in ALL)
    assert found["none", 60] == {"L": None, "ppl_D": None, "ppl_D median": None, "matched": 0.0, "cut": 1.0}

    header = ["method"]
    for window, factor in ((60, "0.234"), (200, "0.781"), (256, "1")):
        header += [f"ppl_D {window} ({factor}×)", f"tokens {window}", f"matched {window}"]
    assert table.header == header
    assert [row[0] for row in table.rows] == ALL
    yarn = found["yarn", 256]
    assert table.rows[2][-3:] == [f"{yarn['ppl_D']:.3f}", f"{tokens:.1f}", "1.000"]
    assert table.rows[0][1:4] == ["–", "–", "0.000"]
    assert table.lines == [
        "Caution: answers fill the window and are cut, which counts as not matched: 100% of none 60, 100% of dynamic "
        "60, 100% of yarn 60."
    ]

    written = json.loads((tmp_path / "out" / "contexts.json").read_text(), parse_constant=pytest.fail)
    assert {**written, "lines": table.lines, "path": str(tmp_path / "out")} == table.public
    assert (written["own_window"], written["queries"]) == (256, 1) and table.files == tuple(
        f"contexts.{ending}" for ending in ("json", "md", "csv", "tex")
    )
    assert all(0 < cell["max_new_tokens"] < cell["window"] for cell in written["contexts"])
    markdown = (tmp_path / "out" / "contexts.md").read_text()
    assert markdown.startswith("| method | ppl_D 60 (0.234×) | ") and table.lines[0] in markdown

    # What was evaluated is kept, one evaluation for all methods where they are one.
    lines = [record.getMessage().partition(",")[0] for record in caplog.records]
    done = [line for line in lines if line.startswith("evaluate: ")]
    assert done == ["evaluate: none 60", *(f"evaluate: {m} {w}" for w in (200, 256) for m in ALL)]
    caplog.clear()
    again = evaluate_contexts(config, [], tmp_path / "again", [256, 200], ["yarn"])
    assert not caplog.records and cells(again.public)["yarn", 256] == yarn
    assert again.title.startswith("first, 1 held-out queries")


def test_beyond_the_policys_own_window(tmp_path: Path, models: dict[str, Path]) -> None:
    """The policy answers by each method, and the others are compared with the first one."""
    policy = make_causal_lm(tmp_path / "random", window=64)
    config = reading(tmp_path, models, "evaluate.responses=2")
    table = evaluate_contexts(config, [str(policy)], tmp_path / "out", [128], ALL)
    assert table.header[1] == "ppl_D 128 (2×)" and table.public["own_window"] == 64
    assert [line.partition(":")[0] for line in table.lines] == [
        "At 128, from none to dynamic",
        "At 128, from none to yarn",
        "Caution",
    ]
    assert "matched 0.000 → 0.000, too few queries." in table.lines[0]
    assert len(list((Store(Path(config.store)).root / ".evaluations").iterdir())) == 3


def test_an_evaluation_that_fails_leaves_an_earlier_comparison_and_goes_on(
    tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = reading(tmp_path, models)
    evaluate_contexts(config, [], tmp_path / "out", [256], ["none"])
    before = (tmp_path / "out" / "contexts.json").read_bytes()
    calls: list[Any] = []

    def broken(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise MemoryError
        return load_perplexity(*args)

    monkeypatch.setattr("training.grace_kto.contexts.load_perplexity", broken)
    with pytest.raises(MemoryError):
        evaluate_contexts(config, [], tmp_path / "out", [256], ALL)
    assert (tmp_path / "out" / "contexts.json").read_bytes() == before
    evaluate_contexts(config, [], tmp_path / "out", [256], ALL)
    assert len(calls) == 3, "none and dynamic are there already"


@pytest.mark.parametrize(
    ("windows", "references", "overrides", "message"),
    [
        (
            [256, 1024],
            ["POLICY"],
            [],
            r"^--contexts 1k: engines\.policy\.context\.method extrapolation cannot bring model .* to 1024 tokens: "
            r"gpt2 has no rotary positions; set engines\.policy\.context\.method to none and",
        ),
        (
            [16, 256],
            ["POLICY"],
            [],
            r"^--contexts 16: the longest of 1 held-out prompts has \d+ tokens, which leaves no room for an answer; "
            r"give larger windows or shorter queries$",
        ),
        (
            [256],
            ["POLICY", "other"],
            [],
            r"^--contexts compares the windows of one policy, found .*, other; give one REF$",
        ),
        ([256], ["stf"], [], r"did you mean sft\?"),
        ([256], ["POLICY"], ["engines.policy.kind=openai"], r"^evaluate needs the model itself, and engines\.policy"),
        ([256], ["POLICY"], ["score.device=gpu"], r"^score\.device is 'gpu'; set it to auto, cpu or cuda$"),
    ],
)
def test_mistakes_are_told_before_anything_is_answered(
    tmp_path: Path,
    models: dict[str, Path],
    windows: list[int],
    references: list[str],
    overrides: list[str],
    message: str,
) -> None:
    config = reading(tmp_path, models, *overrides)
    named = [str(models["policy"]) if text == "POLICY" else text for text in references]
    with pytest.raises(UserError, match=message) as error:
        evaluate_contexts(config, named, tmp_path / "out", windows, ALL)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists() and not (Path(config.store) / ".evaluations").exists()


def test_windows_as_people_write_them() -> None:
    assert [short(window) for window in (8192, 32768, 1000, 512)] == ["8k", "32k", "1000", "512"]
