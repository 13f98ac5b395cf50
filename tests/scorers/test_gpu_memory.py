"""A GPU whose memory runs out: half the batch once, with a word; then an error that says what to set."""

import logging
import weakref
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorers.errors import UserError
from scorers.gpu_memory import BatchSize
from scorers.perplexity import Perplexity
from scorers.relevance import Relevance


class Device:
    """Work that needs more memory than there is above a size; notes the sizes asked for."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.asked: list[int] = []

    def __call__(self, size: int) -> str:
        import torch

        self.asked.append(size)
        if size > self.limit:
            raise torch.OutOfMemoryError
        return f"done with {size}"


def test_what_fits_is_asked_once() -> None:
    device = Device(16)
    assert BatchSize(16, "x").fitting(device) == "done with 16" and device.asked == [16]


def test_half_the_size_is_tried_once_said_and_kept(caplog: pytest.LogCaptureFixture) -> None:
    device, size = Device(8), BatchSize(16, "train.device_batch_size")
    with caplog.at_level(logging.WARNING):
        assert size.fitting(device) == "done with 8"
    assert "memory ran out with train.device_batch_size 16: once more with 8; set it to that number" in caplog.text
    assert size.fitting(device) == "done with 8" and device.asked == [16, 8, 8]
    device.limit = 4  # a longer text
    with pytest.raises(UserError, match=r"ran out with train\.device_batch_size 8; set it to 4, or end what else runs"):
        size.fitting(device)


def test_a_batch_of_one_cannot_be_halved() -> None:
    device = Device(0)
    with pytest.raises(
        UserError, match=r"with score\.tokens_per_batch 1; end what else runs on this GPU, or take a sm"
    ):
        BatchSize(1, "score.tokens_per_batch").fitting(device)
    assert device.asked == [1]


def test_the_batches_of_several_processes_stay_equal() -> None:
    device = Device(8)
    with pytest.raises(UserError, match="ran out with x 16; set it to 8, or"):
        BatchSize(16, "x", alone=False).fitting(device)
    assert device.asked == [16]


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError):
        BatchSize(16, "x").fitting(lambda size: size // 0)


@given(st.integers(2, 40), st.integers(1, 6))
def test_the_next_size_divides_what_it_has_to(size: int, times: int) -> None:
    device = Device(size - 1)
    BatchSize(size, "x", divides=size * times).fitting(device)
    half = device.asked[1]
    assert half <= max(size // 2, 1) and (size * times) % half == 0
    assert not any((size * times) % n == 0 for n in range(half + 1, size // 2 + 1))


def test_what_the_failed_attempt_held_is_free_before_the_next() -> None:
    import torch

    held: list[weakref.ref[torch.Tensor]] = []

    def work(size: int) -> bool:
        if held:
            return held[0]() is None
        tensor = torch.zeros(size)
        held.append(weakref.ref(tensor))
        raise torch.OutOfMemoryError

    assert BatchSize(4, "x").fitting(work)


def test_perplexity_goes_on_with_half(causal_lm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    scorer = Perplexity(causal_lm_dir, tokens_per_batch=600)
    texts = ["Trade grew. " * 20] * 16
    expected = scorer.score(texts)
    hidden, shapes = scorer._hidden, []

    def small(inputs: torch.Tensor) -> torch.Tensor:
        shapes.append(inputs.numel())
        if inputs.numel() > 300:
            raise torch.OutOfMemoryError
        return hidden(inputs)

    monkeypatch.setattr(scorer, "_hidden", small)
    assert scorer.score(texts) == pytest.approx(expected, rel=1e-4)
    assert max(shapes) > 300 and max(shapes[1:]) <= 300


def test_relevance_goes_on_with_half_and_counts_cut_texts_once(
    bge_m3_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    scorer = Relevance(bge_m3_dir, batch_size=4, max_length=16)
    queries, texts = ["trade"] * 6, [f"harbour {'prices ' * 30}{i}" for i in range(6)]
    expected, cut = scorer.score(queries, texts), scorer.truncated
    forward = scorer._forward

    def small(ids: list[list[int]]) -> object:
        if len(ids) > 2:
            raise torch.OutOfMemoryError
        return forward(ids)

    monkeypatch.setattr(scorer, "_forward", small)
    found = scorer.score(queries, texts)
    assert cut == 6 and scorer.truncated == 12
    for ours, wanted in zip(found, expected, strict=True):
        assert ours == pytest.approx(wanted, abs=1e-4)
