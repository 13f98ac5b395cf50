"""Log-probabilities of labelled tokens: both ways against the full logits, in values and gradients."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import training.head


def batch(model: Any) -> tuple[Any, Any, Any]:
    """Token ids, mask and labels of two rows, the second one padded; the first tokens of each have no label."""
    import torch

    ids = torch.randint(0, model.config.vocab_size, (2, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :3] = -100
    return ids, mask, labels


def loaded(folder: Path, method: str) -> Any:
    """A model with TRL's head, and for `lora` an adapter that is not zero, on the head too."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    add_fused_lm_head(model)
    if method == "full":
        return model
    torch.manual_seed(0)
    return get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("logits", [training.head.DIRECT_LOGITS, 0])
def test_both_ways_are_the_log_softmax_and_its_gradient(
    causal_lm_dir: Path, method: str, logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(training.head, "DIRECT_LOGITS", logits)
    model = loaded(causal_lm_dir, method)
    calls: list[None] = []
    model.register_forward_hook(lambda *_: calls.append(None))
    ids, mask, labels = batch(model)
    weights = torch.linspace(-1, 1, labels[:, 1:].numel()).reshape(labels[:, 1:].shape)

    def gradients(logps: Any) -> list[Any]:
        (logps * weights).sum().backward()
        found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        model.zero_grad()
        return found

    logps = training.head.label_logps(model, ids, mask, labels, mixed=False)
    assert bool(calls) == (logits == 0)  # the direct way calls the model's parts
    own = gradients(logps)
    full = model(input_ids=ids, attention_mask=mask).logits[:, :-1].log_softmax(-1)
    wanted = labels[:, 1:] != -100
    expected = full.gather(-1, ids[:, 1:, None]).squeeze(-1) * wanted
    assert torch.allclose(logps, expected, rtol=0, atol=2e-5)
    assert not logps[~wanted].any()
    plain = gradients(expected)
    assert len(own) == len(plain) > 0
    for mine, theirs in zip(own, plain, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-3, atol=2e-5)


def test_a_batch_without_labels_can_be_trained_on(causal_lm_dir: Path) -> None:
    import torch

    model = loaded(causal_lm_dir, "full")
    ids, mask, _ = batch(model)
    logps = training.head.label_logps(model, ids, mask, torch.full_like(ids, -100), mixed=False)
    torch.autograd.backward(logps.sum())
    assert not logps.any()


def test_other_precisions_and_scaled_logits_take_trls_head(causal_lm_dir: Path) -> None:
    """What the direct way would compute otherwise than the model."""
    import torch

    model = loaded(causal_lm_dir, "full")
    calls: list[None] = []
    model.register_forward_hook(lambda *_: calls.append(None))
    ids, mask, labels = batch(model)
    training.head.label_logps(model, ids, mask, labels, mixed=True)
    assert len(calls) == 1
    model.config.final_logit_softcapping = 30.0
    training.head.label_logps(model, ids, mask, labels, mixed=False)
    assert len(calls) == 2
    del model.config.final_logit_softcapping
    training.head.label_logps(model.to(torch.bfloat16), ids, mask, labels, mixed=False)
    assert len(calls) == 3


def test_rows_of_like_length_go_together() -> None:
    assert training.head._alike([70, 100, 80, 10]) == [[1, 2], [0], [3]]


@given(st.lists(st.integers(1, 500)))
def test_every_row_is_in_one_group_and_a_quarter_of_it_is_padding_at_most(lengths: list[int]) -> None:
    groups = training.head._alike(lengths)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    for longest, *others in groups:
        assert all(0.75 * lengths[longest] <= lengths[row] <= lengths[longest] for row in others)


def test_a_group_of_one_process_shares_nothing(causal_lm_dir: Path) -> None:
    """A model that vLLM keeps in this process has such a group; logits are computed as without it."""
    import torch
    from torch import distributed

    store = torch._C._distributed_c10d.HashStore()
    model = loaded(causal_lm_dir, "full")
    labels = batch(model)[2]
    assert training.head._is_small(model, labels)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        assert training.head._is_small(model, labels)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.distributed, "get_world_size", lambda: 2)
            assert not training.head._is_small(model, labels)
    finally:
        distributed.destroy_process_group()
