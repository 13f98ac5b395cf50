"""Token choice: hand-computed cases, frequencies against the exact distribution, and properties."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.engines import SamplingSettings
from builders.engines.sampling import choose, draw, row_uniforms, shaped_probabilities

PROBABILITIES = [0.1, 0.5, 0.05, 0.3, 0.05]


def shaped(temperature: float, top_p: float, **more: Any) -> SamplingSettings:
    return SamplingSettings(1, temperature, top_p, **more)


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        (0.4, [1]),
        (0.5, [1]),  # 0.5 alone reaches 0.5
        (0.7, [1, 3]),
        (0.85, [0, 1, 3]),
        (0.92, [0, 1, 2, 3]),  # of equal probabilities the lower id comes first
        (1.0, [0, 1, 2, 3, 4]),
    ],
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, kept: list[int]) -> None:
    import torch

    weights = shaped_probabilities(torch.tensor([PROBABILITIES], dtype=torch.float64).log(), 1.0, top_p)[0]
    expected = [p if token in kept else 0.0 for token, p in enumerate(PROBABILITIES)]
    assert weights.tolist() == pytest.approx(expected)


def test_temperature_sharpens_before_top_p() -> None:
    import torch

    # At temperature 1/2 probabilities are squared: 0.25 / 0.3475 and 0.09 / 0.3475 remain under top_p 0.9.
    weights = shaped_probabilities(torch.tensor([PROBABILITIES]).log(), 0.5, 0.9)[0]
    assert weights.tolist() == pytest.approx([0, 0.25 / 0.355, 0, 0.09 / 0.355, 0], abs=1e-6)


@pytest.mark.parametrize(("top_k", "kept"), [(1, [1]), (2, [1, 3]), (3, [0, 1, 3]), (4, [0, 1, 2, 3, 4]), (9, None)])
def test_top_k_keeps_the_most_probable_and_equals_of_the_last(top_k: int, kept: list[int] | None) -> None:
    import torch

    weights = shaped_probabilities(torch.tensor([PROBABILITIES], dtype=torch.float64).log(), 1.0, 1.0, top_k)[0]
    expected = [p if kept is None or token in kept else 0.0 for token, p in enumerate(PROBABILITIES)]
    assert weights.tolist() == pytest.approx([p / sum(expected) for p in expected])


def test_top_p_counts_among_what_top_k_leaves() -> None:
    import torch

    # Of 0.5 and 0.3 the first has 0.625, so that a nucleus of 0.6 is that token alone.
    weights = shaped_probabilities(torch.tensor([PROBABILITIES], dtype=torch.float64).log(), 1.0, 0.6, 2)[0]
    assert weights.tolist() == pytest.approx([0, 0.625, 0, 0, 0])


def test_a_penalty_on_what_is_there_shapes_the_choice_and_not_its_logprob() -> None:
    import torch

    logits = torch.tensor([PROBABILITIES, PROBABILITIES]).log()
    seen = torch.tensor([[False, True, False, False, False], [False] * 5])
    # 0.5 / e is below 0.3, so the first row takes the next token.
    tokens, logprobs = choose(logits, None, shaped(0.0, 1.0, presence_penalty=1.0), seen)
    assert tokens.tolist() == [3, 1]
    assert logprobs.tolist() == pytest.approx([math.log(0.3), math.log(0.5)], abs=1e-6)
    tokens, _ = choose(logits, None, shaped(0.0, 1.0, presence_penalty=0.5), seen)
    assert tokens.tolist() == [1, 1]  # 0.5 / e^0.5 is above 0.3


@pytest.mark.parametrize(("uniform", "token"), [(0.0, 0), (0.0999, 0), (0.1001, 1), (0.6001, 2), (0.66, 3), (0.951, 4)])
def test_draw_inverts_the_cumulative_distribution(uniform: float, token: int) -> None:
    import torch

    weights = torch.tensor([PROBABILITIES], dtype=torch.float64)
    assert draw(weights, torch.tensor([uniform], dtype=torch.float64)).tolist() == [token]


def test_draw_never_takes_a_token_of_weight_zero() -> None:
    import torch

    weights = torch.tensor([[0.0, 0.2, 0.0, 0.1, 0.0]], dtype=torch.float64)
    ends = torch.tensor([0.0, 1.0 - 2.0**-53], dtype=torch.float64)
    assert draw(weights.expand(2, -1), ends).tolist() == [1, 3]


def test_logprob_is_that_of_the_unshaped_distribution() -> None:
    import torch

    logits = torch.tensor([PROBABILITIES]).log() + 3.0
    tokens, logprobs = choose(logits, torch.tensor([0.99], dtype=torch.float64), shaped(0.5, 0.9))
    assert tokens.tolist() == [3]
    assert logprobs.tolist() == pytest.approx([math.log(0.3)], abs=1e-6)
    tokens, logprobs = choose(logits, None, shaped(0.0, 1.0))
    assert tokens.tolist() == [1]
    assert logprobs.tolist() == pytest.approx([math.log(0.5)], abs=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("greedy", [True, False])
def test_bad_logits_give_a_logprob_that_is_not_finite(bad: float, greedy: bool) -> None:
    import torch

    uniforms = None if greedy else torch.tensor([0.5], dtype=torch.float64)
    tokens, logprobs = choose(torch.tensor([[0.0, bad, 1.0]]), uniforms, shaped(0.0 if greedy else 1.0, 0.9))
    assert 0 <= int(tokens[0]) < 3
    assert not math.isfinite(float(logprobs[0]))


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.8)])
def test_frequencies_follow_the_distribution(temperature: float, top_p: float) -> None:
    import torch
    from scipy.stats import chisquare

    count = 20_000
    logits = torch.tensor([PROBABILITIES]).log().expand(count, -1)
    uniforms = torch.tensor([row_uniforms(seed, 1)[0] for seed in range(count)])
    tokens, _ = choose(logits, uniforms, shaped(temperature, top_p))
    exact = np.array(PROBABILITIES) ** (1 / temperature)
    exact /= exact.sum()
    order = np.argsort(-exact, kind="stable")
    exact[order[np.cumsum(exact[order]) - exact[order] >= top_p]] = 0.0
    exact /= exact.sum()
    seen = np.bincount(tokens.numpy(), minlength=5)
    assert seen[exact == 0].sum() == 0
    assert chisquare(seen[exact > 0], count * exact[exact > 0]).pvalue > 1e-3


@settings(max_examples=60)
@given(
    scores=st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=12),
    uniform=st.floats(0, 1, exclude_max=True),
    temperature=st.floats(0.1, 5),
    top_p=st.floats(0.05, 1),
)
def test_drawn_token_lies_in_the_kept_set(
    scores: list[float], uniform: float, temperature: float, top_p: float
) -> None:
    import torch

    logits = torch.tensor([scores])
    weights = shaped_probabilities(logits, temperature, top_p)[0]
    assert float(weights.sum()) >= min(top_p, 1.0) - 1e-9
    assert float(weights.max()) == pytest.approx(float(torch.softmax(logits.double() / temperature, -1).max()))
    tokens, logprobs = choose(logits, torch.tensor([uniform], dtype=torch.float64), shaped(temperature, top_p))
    assert float(weights[tokens[0]]) > 0
    assert float(logprobs[0]) == pytest.approx(float(logits.log_softmax(-1)[0, tokens[0]]), abs=1e-4)


@pytest.mark.parametrize("largest", [1, 4, 64])
def test_nucleus_is_that_of_a_loop_over_sorted_tokens(largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flat and sharp rows, ties at the nucleus's end, more tokens than the few that are looked at first."""
    import torch

    monkeypatch.setattr("builders.engines.sampling.LARGEST", largest)
    rng = np.random.default_rng(0)
    rows = [rng.normal(0, scale, 40) for scale in (0.01, 1, 4)] + [rng.integers(0, 3, 40), np.zeros(40)]
    logits = torch.tensor(np.array(rows))
    for top_p in (0.05, 0.5, 0.9, 0.99):
        weights = shaped_probabilities(logits, 1.0, top_p)
        for row, found in zip(torch.softmax(logits, dim=-1).tolist(), weights.tolist(), strict=True):
            expected, reached = [0.0] * len(row), 0.0
            for token in sorted(range(len(row)), key=lambda token: (-row[token], token)):
                if reached >= top_p:
                    break
                expected[token] = row[token]
                reached += row[token]
            assert found == expected


def test_uniforms_belong_to_their_seed() -> None:
    assert row_uniforms(7, 5).tolist() == row_uniforms(7, 9)[:5].tolist()
    assert row_uniforms(7, 5).tolist() != row_uniforms(8, 5).tolist()
    assert row_uniforms(2**63 - 1, 3).shape == (3,)
