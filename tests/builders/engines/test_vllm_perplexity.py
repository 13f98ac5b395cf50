"""Perplexity by vLLM, real vLLM on the CPU, against `scorers.perplexity.Perplexity` on the same tiny model."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tolerances import perplexity

from builders.engines import vllm_perplexity
from builders.engines.vllm_engine import CPU_ENVIRONMENT, ENVIRONMENT
from builders.engines.vllm_perplexity import SLOTS, VllmPerplexity
from scorers.errors import UserError
from scorers.perplexity import Perplexity

SENTENCE = "The harbour grew within a decade, and trade doubled; prices fell by a third. "
# 1 to about 4,000 tokens; the model's window is 512. One text is the beginning of others.
TEXTS = ["ab", "a", "", SENTENCE, SENTENCE * 3, "国有企业改革", SENTENCE * 20, SENTENCE[::-1] * 40, SENTENCE * 110]
CPU: dict[str, Any] = {"device": "cpu", "dtype": "float32"}
STRETCHED: dict[str, Any] = {"window": 1100, "method": "yarn"}


@pytest.fixture(scope="module")
def environment() -> Iterator[None]:
    """Take back what is set for vLLM."""
    with pytest.MonkeyPatch.context() as patch:
        for name in (*ENVIRONMENT, *CPU_ENVIRONMENT):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="module")
def prefixed_dir(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with a tokenizer that puts a token before every text, as Llama's does."""
    from tokenizers import processors
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("prefixed") / "model"
    shutil.copytree(model_dir, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", pair="$A $B", special_tokens=[("<|im_start|>", 1)]
    )
    tokenizer.save_pretrained(folder)
    return folder


Found = dict[str, list[float | None]]


@pytest.fixture(scope="module")
def found(model_dir: Path, prefixed_dir: Path, environment: None) -> Iterator[Found]:
    """Everything asked of several models of vLLM that are in memory together."""
    scorer = VllmPerplexity(model_dir, **CPU)
    other = VllmPerplexity(prefixed_dir, **CPU, window=33, tokens_per_batch=1)
    assert not scorer._llm.llm_engine.vllm_config.cache_config.enable_prefix_caching
    results = {
        "plain": scorer.score(TEXTS),
        "prefixed": other.score(TEXTS),
        "turned": scorer.score(TEXTS[::-1])[::-1],
        "again": scorer.score(TEXTS),
        "alone": [scorer.score([text])[0] for text in TEXTS],
        "none": scorer.score([]),
        "many": scorer.score([SENTENCE] * (3 * SLOTS)),
    }
    other.close()
    assert scorer._llm is None, "in one process vLLM's models end together"
    results["after a close"] = scorer.score(TEXTS)
    scorer.close()
    scorer.close()
    assert not vllm_perplexity._open
    yield results


def close_to(expected: Sequence[float | None], folder: Path) -> list[Any]:
    """The expected perplexities, comparable within rounding."""
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder)(TEXTS, add_special_tokens=False)["input_ids"]
    return [
        None if value is None else pytest.approx(value, rel=perplexity(len(row) - 1))
        for value, row in zip(expected, ids, strict=True)
    ]


@pytest.mark.slow
def test_equals_transformers_within_and_beyond_the_window(found: Found, model_dir: Path) -> None:
    expected = Perplexity(model_dir).score(TEXTS)
    assert [value is None for value in expected] == [text in ("a", "") for text in TEXTS]
    assert found["plain"] == close_to(expected, model_dir)
    assert len({round(value, 3) for value in expected if value is not None}) == len(TEXTS) - 2
    assert found["none"] == []


@pytest.mark.slow
def test_what_stands_before_every_text_is_read_in_every_window(found: Found, prefixed_dir: Path) -> None:
    expected = Perplexity(prefixed_dir, window=33).score(TEXTS)
    assert found["prefixed"] == close_to(expected, prefixed_dir)
    without = found["plain"][3]
    assert expected[3] != pytest.approx(without, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["turned", "again", "alone", "after a close"])
def test_a_score_depends_on_no_other_text_nor_on_what_was_read_before(found: Found, model_dir: Path, name: str) -> None:
    assert found[name] == close_to(found["plain"], model_dir)


@pytest.mark.slow
def test_more_texts_than_slots(found: Found, model_dir: Path) -> None:
    assert len(found["many"]) == 3 * SLOTS
    one = close_to(found["plain"], model_dir)[TEXTS.index(SENTENCE)]
    assert all(value == one for value in found["many"])


@pytest.mark.slow
def test_a_window_above_the_models(found: Found, model_dir: Path) -> None:
    scorer = VllmPerplexity(model_dir, **CPU, **STRETCHED)
    got = scorer.score(TEXTS)
    scorer.close()
    expected = Perplexity(model_dir, **STRETCHED).score(TEXTS)
    assert scorer.window == 1100 and got == close_to(expected, model_dir)
    assert expected[-1] != pytest.approx(found["plain"][-1], rel=1e-4)


@pytest.mark.slow
def test_a_model_that_computes_nan(found: Found, model_dir: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    shutil.copytree(model_dir, tmp_path / "m")
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    model.save_pretrained(tmp_path / "m")
    with pytest.raises(UserError, match=r"^perplexity model '.*' gives NaN or infinite logits; its weights are dam"):
        VllmPerplexity(tmp_path / "m", **CPU)
    assert not vllm_perplexity._open


def test_the_window_has_room_for_what_stands_before_a_text(prefixed_dir: Path) -> None:
    message = r"score.context.window is 2 tokens, and 1 of them stands before every text of model .* at least 3$"
    with pytest.raises(UserError, match=message):
        VllmPerplexity(prefixed_dir, **CPU, window=2)


def test_a_model_that_lacks_weights(model_dir: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "m"
    shutil.copytree(model_dir, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 weights, the first is model.norm.weight; random ones would take"):
        VllmPerplexity(folder, **CPU)
