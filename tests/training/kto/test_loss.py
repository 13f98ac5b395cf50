"""The loss against hand-computed values, an independent formula, and its gradient's properties."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.kto.loss import grace_kto_loss, kl_estimate


def loss_of(
    policy: Any,
    reference: Any,
    weights: Any,
    labels: Any,
    z_ref: Any,
    beta: Any = 0.05,
    positive: Any = 1.0,
    negative: Any = 1.0,
) -> Any:
    import torch

    return grace_kto_loss(
        torch.tensor(policy, dtype=torch.float64),
        torch.tensor(reference, dtype=torch.float64),
        torch.tensor(weights, dtype=torch.float64),
        torch.tensor(labels),
        z_ref,
        beta=beta,
        lambda_positive=positive,
        lambda_negative=negative,
    )


def test_gold_values() -> None:
    # Δ = 20, z = 0, β = 0.05: σ(±1) = 0.731059, 0.268941; |W|·λ = 2·1.5 and 0.5·3.
    losses = loss_of([-10.0, -10.0], [-30.0, -30.0], [2.0, -0.5], [True, False], 0.0, positive=1.5, negative=3.0)
    assert losses.tolist() == pytest.approx([3 * (1 - 0.7310585786), 1.5 * (1 - 0.2689414214)], abs=1e-9)


def test_at_the_reference_every_row_costs_half_its_weight() -> None:
    losses = loss_of([-5.0, -7.0], [-5.0, -7.0], [1.0, -3.0], [True, False], 0.0)
    assert losses.tolist() == pytest.approx([0.5, 1.5], abs=1e-12)


def test_z_ref_moves_both_polarities() -> None:
    # Δ = z: the sigmoid is at its middle for both labels.
    losses = loss_of([-1.0, -1.0], [-4.0, -4.0], [1.0, -1.0], [True, False], 3.0)
    assert losses.tolist() == pytest.approx([0.5, 0.5], abs=1e-12)


rows = st.lists(
    st.tuples(st.floats(-200, 0), st.floats(-200, 0), st.floats(-5, 5), st.booleans()), min_size=1, max_size=12
)


@given(rows, st.floats(0, 50), st.floats(0.01, 1), st.floats(0.1, 4), st.floats(0.1, 4))
@settings(max_examples=60)
def test_equals_an_independent_computation(batch: Any, z_ref: Any, beta: Any, positive: Any, negative: Any) -> None:
    policy, reference, weights, labels = (list(column) for column in zip(*batch, strict=True))
    expected = []
    for logp, ref, weight, label in batch:
        if label:
            expected.append(abs(weight) * positive / (1 + math.exp(beta * (logp - ref - z_ref))))
        else:
            expected.append(abs(weight) * negative / (1 + math.exp(beta * (z_ref - logp + ref))))
    losses = loss_of(policy, reference, weights, labels, z_ref, beta, positive, negative)
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-10, atol=1e-12)


@given(rows)
@settings(max_examples=60)
def test_gradient_raises_positives_lowers_negatives_and_ignores_weight_zero(batch: Any) -> None:
    import torch

    policy, reference, weights, labels = (list(column) for column in zip(*batch, strict=True))
    leaf = torch.tensor(policy, dtype=torch.float64, requires_grad=True)
    losses = grace_kto_loss(
        leaf,
        torch.tensor(reference, dtype=torch.float64),
        torch.tensor(weights, dtype=torch.float64),
        torch.tensor(labels),
        0.0,
        beta=0.05,
        lambda_positive=1.0,
        lambda_negative=1.0,
    )
    torch.autograd.backward(losses.sum())
    assert leaf.grad is not None
    for gradient, weight, label in zip(leaf.grad.tolist(), weights, labels, strict=True):
        if weight == 0:
            assert gradient == 0
        else:
            assert gradient <= 0 if label else gradient >= 0


def test_kl_estimate_is_a_clamped_mean_without_gradient() -> None:
    import torch

    policy = torch.tensor([-1.0, -2.0], requires_grad=True)
    estimate = kl_estimate(policy, torch.tensor([-3.0, -3.0]))
    assert estimate.item() == 1.5
    assert not estimate.requires_grad
    assert kl_estimate(torch.tensor([-9.0]), torch.tensor([-3.0])).item() == 0.0
