"""Answers to held-out queries and their scores."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from real_configs import config_on

from builders.core.models import LocalModel
from builders.core.stage import Context
from builders.engines import Completion
from builders.grace_kto import loading
from builders.store.manifest import Model
from builders.store.store import Store
from scorers.errors import UserError
from scorers.extraction import Extraction
from training.grace_kto import answers
from training.grace_kto.answers import check_finite, world_columns


def test_the_worlds_measures_have_the_same_names_without_a_document() -> None:
    empty = world_columns([])
    some = world_columns([("Write about it.", "A sentence. A sentence.")])
    assert list(empty) == list(some) != []
    assert all(len(values) == 0 and values.mean() is None for values in empty.values())
    assert some["duplicate_sentences"].to_list() == [0.5] and some["on_topic"].to_list() == [None]


class Reading:
    """A scorer of vLLM's kind, without vLLM."""

    def __init__(self, open_: set["Reading"]) -> None:
        self.open = open_
        open_.add(self)

    def score(self, texts: Sequence[str], known: Any = None) -> list[float | None]:
        return [2.0] * len(texts)

    def close(self) -> None:
        self.open.remove(self)


def test_vllms_scorers_leave_the_memory_to_the_next_policy(
    tmp_path: Path, causal_lm_dir: Path, bge_m3_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = Extraction("A summary.", "1. One", "The harbour grew."), None
    done = Completion("text", "stop", 4), Completion("text", "length", 4)
    open_: set[Reading] = set()
    monkeypatch.setattr(answers, "read_answers", lambda config, policy, queries: (list(done), list(parts)))
    monkeypatch.setattr(loading, "load_perplexity", lambda model, settings: Reading(open_))
    for engine, left in (("transformers", 1), ("vllm", 0)):  # one model is general and domain
        config = config_on(
            tmp_path, f"score.engine={engine}", "score.max_length=256", policy=causal_lm_dir,
            relevance=bge_m3_dir,
        )  # fmt: skip
        models = {
            role: LocalModel(Model(id=role, revision="r"), bge_m3_dir if role == "relevance" else causal_lm_dir)
            for role in ("tokenizer", "general", "relevance")
        }
        context = Context(config, Store(Path(config.store)), 1, {}, {**models, "domain": models["general"]})
        found = answers.evaluate(context, "p", models["general"], ["One?", "Two?"])
        assert found.columns["ppl_D"].tolist()[0] == [2.0]
        assert len(open_) == left
        context.loaded.keep(())
    assert not open_


def test_a_metric_that_is_not_finite() -> None:
    check_finite({"P": pl.Series([1.0, None])}, "p")
    with pytest.raises(
        UserError, match=r"evaluation of round 2: P is inf for matched response 2, counted from 0; look"
    ):
        check_finite({"L": pl.Series([1.0]), "P": pl.Series([1.0, None, math.inf, math.nan])}, "round 2")
