"""A policy's training state: it comes back bit by bit for every optimizer, and what does not fit is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builders.store.manifest import TRAINING_STATE
from scorers.errors import UserError
from training.kto.state import (
    load_optimizer,
    load_random,
    read_state,
    require_same_run,
    state_digest,
    states_of,
    write_random,
    write_state,
)

RUN = {"learning_rate": 0.1, "lora_targets": ["q_proj"]}


def small_model(width: int = 4) -> Any:
    import torch

    torch.manual_seed(0)
    # One parameter is large enough for the states of 8 bits.
    return torch.nn.Sequential(torch.nn.Linear(width, 1024), torch.nn.Linear(1024, width))


def optimizers() -> dict[str, Callable[[Any], Any]]:
    import torch
    from bitsandbytes.optim import AdamW8bit
    from transformers import Adafactor

    return {
        "adamw": lambda values: torch.optim.AdamW(values, lr=0.1),
        "fused": lambda values: torch.optim.AdamW(values, lr=0.1, fused=True),
        "adafactor": lambda values: Adafactor(values, lr=0.1, scale_parameter=False, relative_step=False),
        "8 bits": lambda values: AdamW8bit(values, lr=0.1),
    }


def step(model: Any, optimizer: Any, seed: int) -> None:
    import torch

    inputs = torch.randn((3, model[0].in_features), generator=torch.Generator().manual_seed(seed))
    torch.autograd.backward(model(inputs).square().sum())
    optimizer.step()
    optimizer.zero_grad()


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    (tmp_path / TRAINING_STATE).mkdir()
    return tmp_path


def written(policy: Path, kind: str = "adamw") -> tuple[Any, Any]:
    """A model after two steps, with its optimizer; the state is in the policy's folder."""
    model = small_model()
    optimizer = optimizers()[kind](model.parameters())
    step(model, optimizer, 0)
    step(model, optimizer, 1)
    write_state(policy / TRAINING_STATE, 2, RUN, states_of(model, optimizer))
    return model, optimizer


@pytest.mark.parametrize("kind", ["adamw", "fused", "adafactor", "8 bits"])
def test_every_optimizer_goes_on_as_if_nothing_had_been(policy: Path, kind: str) -> None:
    import torch

    model, optimizer = written(policy, kind)
    other = small_model()
    other.load_state_dict(model.state_dict())
    following = optimizers()[kind](other.parameters())
    load_optimizer(policy / TRAINING_STATE, other, following)
    for each in ((model, optimizer), (other, following)):
        step(*each, 2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert {path.suffix for path in (policy / TRAINING_STATE).iterdir()} == {".safetensors", ".json"}


def test_random_states_go_on_for_each_process(policy: Path) -> None:
    import torch

    folder = policy / TRAINING_STATE
    torch.manual_seed(7)
    write_random(folder, 1)
    expected = torch.rand(3)
    torch.manual_seed(8)
    load_random(folder, 1)
    assert torch.equal(torch.rand(3), expected)
    before = torch.get_rng_state()
    load_random(folder, 5)  # there was no such process
    assert torch.equal(torch.get_rng_state(), before)
    (folder / "random-1.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"random-1\.safetensors is no random state: .*delete its folder"):
        load_random(folder, 1)


def test_the_header_says_where_the_run_is(policy: Path) -> None:
    assert read_state(policy) is None and state_digest(policy / "absent") is None
    written(policy)
    state = read_state(policy)
    assert state is not None and (state.step, state.run) == (2, RUN)
    require_same_run(state, 2, RUN, policy)
    with pytest.raises(UserError, match="ended at step 2 of the schedule, and this round begins at step 4"):
        require_same_run(state, 4, RUN, policy)
    with pytest.raises(UserError, match=r"began with learning_rate 0\.1, now it is 0\.2; .*keep the setting"):
        require_same_run(state, 2, {"learning_rate": 0.2}, policy)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not a training state: it: Invalid JSON"),
        ('{"step": "2", "run": {}}', "step: Input should be a valid integer"),
        ('{"step": 2, "run": {}, "code": "import os"}', "code: Extra inputs are not permitted"),
        ('{"step": 2, "run": {}, "numbers": {"a/step": NaN}}', "not a training state"),
    ],
)
def test_a_header_of_somebody_elses_is_not_trusted(policy: Path, text: str, words: str) -> None:
    (policy / TRAINING_STATE / "state.json").write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        read_state(policy)
    assert "\n" not in str(caught.value)


def test_a_state_of_another_model_is_refused(policy: Path) -> None:
    import torch

    written(policy)
    folder = policy / TRAINING_STATE

    def refused(model: Any, words: str) -> None:
        with pytest.raises(UserError, match=words):
            load_optimizer(folder, model, torch.optim.AdamW(model.parameters()))

    refused(small_model(width=5), r"does not fit this model: 0\.weight/exp_avg")
    refused(torch.nn.Sequential(torch.nn.Linear(4, 1024)), r"does not fit this model: 1\.bias/exp_avg")
    refused(torch.nn.Sequential(*small_model(), torch.nn.Linear(4, 4)), r"has nothing of 2\.weight")
    (folder / "optimizer.safetensors").write_bytes(b"\x80\x04damaged")
    refused(small_model(), "is not readable")
    (folder / "optimizer.safetensors").unlink()
    refused(small_model(), "is not readable")


def test_its_digest_follows_its_files(policy: Path) -> None:
    written(policy)
    first = state_digest(policy)
    shutil.copytree(policy / TRAINING_STATE, policy / "copy" / TRAINING_STATE)
    assert state_digest(policy / "copy") == first
    header = policy / TRAINING_STATE / "state.json"
    header.write_text(json.dumps(json.loads(header.read_text()) | {"step": 3}))
    assert state_digest(policy) != first
