"""The loss of margin-based preference optimisation: by hand, against a plain computation, its gradient, and TRL's."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch  # noqa: TID253

from training.mpo.loss import cross_entropy, margin_loss, mpo_loss

SETTINGS: dict[str, Any] = {"beta": 0.01, "gamma": 1.0, "weight": 0.8}


def batch(size: int = 7, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probabilities of winners and losers, margins, and tokens of the winners."""
    generator = torch.Generator().manual_seed(seed)
    logps = -80 * torch.rand(2, size, generator=generator, dtype=torch.float64)
    margins = 4 * torch.rand(size, generator=generator, dtype=torch.float64)
    return logps[0], logps[1], margins, torch.randint(1, 40, (size,), generator=generator)


def plain(winners: list[float], losers: list[float], margins: list[float], tokens: list[int], **settings: Any) -> float:
    """The same by floats of Python."""
    weight: float = settings["weight"]
    total = 0.0
    for winner, loser, margin in zip(winners, losers, margins, strict=True):
        inner = settings["beta"] * (winner - loser - settings["gamma"] * margin)
        total += math.log(1 + math.exp(-inner))
    mean = total / len(winners)
    if settings.get("kind", "mean") == "mean":
        return weight * mean - sum(winners) / sum(tokens)
    return weight * mean - sum(winners) / len(winners)


def test_by_hand() -> None:
    # 0.5 · (−2 + 6 − 2 · 1) = 1: −log σ(1) = 0.313262.
    found = margin_loss(torch.tensor([-2.0]), torch.tensor([-6.0]), torch.tensor([1.0]), beta=0.5, gamma=2.0)
    assert found.tolist() == pytest.approx([0.313262], abs=1e-6)
    logps, tokens = torch.tensor([-2.0, -10.0]), torch.tensor([4, 8])
    assert (cross_entropy(logps, tokens).item(), cross_entropy(logps, tokens, "sum").item()) == (1.0, 6.0)


@pytest.mark.parametrize("kind", ["mean", "sum"])
@pytest.mark.parametrize("seed", range(5))
def test_equals_a_plain_computation(kind: str, seed: int) -> None:
    winners, losers, margins, tokens = batch(seed=seed)
    found = mpo_loss(winners, losers, margins, tokens, **SETTINGS, kind=kind)  # type: ignore[arg-type]
    values = (part.tolist() for part in (winners, losers, margins, tokens))
    assert found.item() == pytest.approx(plain(*values, **SETTINGS, kind=kind), abs=1e-9)


def test_the_gradient_is_that_of_its_differences() -> None:
    winners, losers, margins, tokens = batch(4)
    winners.requires_grad_()
    losers.requires_grad_()
    assert torch.autograd.gradcheck(lambda w, lo: mpo_loss(w, lo, margins, tokens, **SETTINGS), (winners, losers))
    # More reward for the winner asks for more: the larger the margin, the larger the loss and its pull.
    for gamma, next_gamma in ((0.0, 1.0), (1.0, 5.0)):
        losses = [margin_loss(winners, losers, margins, beta=0.1, gamma=g) for g in (gamma, next_gamma)]
        assert (losses[0] < losses[1]).all()


def test_without_its_first_part_it_is_supervised_fine_tuning() -> None:
    winners, losers, margins, tokens = batch()
    found = mpo_loss(winners, losers, margins, tokens, **(SETTINGS | {"weight": 0.0}))
    assert found.item() == pytest.approx(-winners.sum().item() / tokens.sum().item())


def test_large_differences_stay_finite() -> None:
    far = torch.tensor([-1e6, 0.0], dtype=torch.float32)
    found = margin_loss(far, far.flip(0), torch.zeros(2), beta=1.0, gamma=1.0)
    assert found.tolist() == [1e6, 0.0]


@pytest.mark.parametrize(("kind", "fixed"), [("sigmoid", 0.0), ("simpo", 0.6)])
def test_equals_trls_loss_where_the_formulas_coincide(kind: str, fixed: float) -> None:
    """CPO has no margin, SimPO a fixed one, β times ours."""
    from trl.experimental.cpo import CPOTrainer

    winners, losers, _, _ = batch()
    trainer = SimpleNamespace(
        alpha=0.0,
        beta=0.3,
        loss_type=kind,
        simpo_gamma=fixed,
        label_smoothing=0.0,
        accelerator=SimpleNamespace(device="cpu"),
    )
    theirs, _, _ = CPOTrainer.cpo_loss(trainer, winners, losers)
    margins = torch.full_like(winners, fixed / 0.3)
    ours = margin_loss(winners, losers, margins, beta=0.3, gamma=0.0 if kind == "sigmoid" else 1.0)
    assert ours.tolist() == pytest.approx(theirs.tolist(), abs=1e-9)
