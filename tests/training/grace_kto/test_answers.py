"""Answers to held-out queries and their scores."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from real_configs import config_on, write_lines

from builders.core.models import LocalModel
from builders.core.stage import Context
from builders.engines import Completion
from builders.grace_kto import loading
from builders.store.manifest import Model
from builders.store.store import Store
from scorers.errors import UserError
from training.grace_kto import answers
from training.grace_kto.answers import require_finite, world_measures
from training.grace_kto.evaluation import MEASURES


def test_the_worlds_measures_have_the_same_names_without_a_document() -> None:
    empty = world_measures([], [])
    some = world_measures(["Write about it."], ["A sentence. A sentence."])
    assert empty.schema == some.schema and tuple(empty.columns) == MEASURES
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
    tagged = "<summary>A summary.</summary><outline>1. One</outline><answer>The harbour grew.</answer>"
    done = [Completion(tagged, "stop", 4), Completion("text", "length", 4)]
    open_: set[Reading] = set()
    monkeypatch.setattr(answers, "answer_queries", lambda config, policy, queries: (done, False))
    monkeypatch.setattr(loading, "load_perplexity", lambda model, settings: Reading(open_))
    source = write_lines(tmp_path / "two.jsonl", ['{"query": "One?"}\n', '{"query": "Two?"}\n'])
    for engine, left in (("transformers", 1), ("vllm", 0)):  # one model is general and domain
        config = config_on(
            tmp_path, f"score.engine={engine}", "score.max_length=256", f"evaluate.source={source}",
            policy=causal_lm_dir, relevance=bge_m3_dir,
        )  # fmt: skip
        models = {
            role: LocalModel(Model(id=role, revision="r"), bge_m3_dir if role == "relevance" else causal_lm_dir)
            for role in ("tokenizer", "general", "relevance", "evaluated")
        }
        context = Context(config, Store(Path(config.store)), 1, {}, {**models, "domain": models["general"]})
        found = answers.build(context, answers.plan(context)[0])
        assert found.frame["ppl_domain"].to_list() == [2.0, None]
        assert found.frame["finish_reason"].to_list() == ["stop", "length"]
        assert found.counts == {
            "read": 2, "matched": 1, "cut at the length limit": 1, "groups without a matched response": 1, "tokens": 8,
        }  # fmt: skip
        assert len(open_) == left
        context.loaded.keep(())
    assert not open_


def test_a_metric_that_is_not_finite() -> None:
    require_finite({"P": pl.Series([1.0, None])}, "p")
    with pytest.raises(
        UserError, match=r"evaluation of round 2: P is inf for matched response 2, counted from 0; look"
    ):
        require_finite({"L": pl.Series([1.0]), "P": pl.Series([1.0, None, math.inf, math.nan])}, "round 2")
