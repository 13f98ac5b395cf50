"""Reward models: against a plain pass of one text at a time; of one model, one for each kind, adapters, and faults."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from scorers.errors import UserError
from scorers.reward import RewardModels

SENTENCE = "The harbour grew within a decade, and trade doubled; prices fell by a third. "
# 3, 101, 1, 26, 10, 68, 19 and 51 tokens with the end that is added; one has its end already.
TEXTS = ["ab", SENTENCE * 4, "", SENTENCE, "He goes.<|im_end|>", SENTENCE[::-1], "国有企业改革", SENTENCE * 2]
KINDS = ["gec", "fluency", "gec", "gec", "fluency", "gec", "fluency", "fluency"]


def make_model(causal_lm_dir: Path, folder: Path, seed: int, outputs: int = 1) -> Path:
    """Save a random sequence classifier of the language model's shape, with its tokenizer."""
    import torch
    from transformers import AutoConfig, AutoTokenizer, Qwen2ForSequenceClassification

    torch.manual_seed(seed)
    config = AutoConfig.from_pretrained(causal_lm_dir, num_labels=outputs)
    Qwen2ForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(causal_lm_dir).save_pretrained(folder)
    return folder


def make_adapters(causal_lm_dir: Path, folder: Path) -> Path:
    """Save an adapter for each kind, which differ in LoRA's second matrix alone, and the tokenizer beside them."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    for seed, kind in enumerate(("gec", "fluency")):
        torch.manual_seed(0)
        base = AutoModelForSequenceClassification.from_pretrained(causal_lm_dir, num_labels=1)
        model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="SEQ_CLS"))
        torch.manual_seed(seed)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
        model.save_pretrained(folder / kind)
    AutoTokenizer.from_pretrained(causal_lm_dir).save_pretrained(folder)
    return folder


def plain(folder: Path, texts: Sequence[str], adapter: Path | None = None, limit: int = 512) -> Any:
    """The head over the last token's state, of one text at a time and without padding; comparable within rounding."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1).eval()
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter).get_base_model().eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for text in texts:
        ids = tokenizer(text.removesuffix("<|im_end|>") + "<|im_end|>")["input_ids"][-limit:]
        with torch.inference_mode():
            states = model.model(torch.tensor([ids])).last_hidden_state  # (1, T, D)
            found.append(float(model.score(states[0, -1])))
    return pytest.approx(found, abs=1e-5)


def models(
    folder: Path, adapter: Path | None = None, batch_size: int = 3, max_length: int | None = None
) -> RewardModels:
    return RewardModels(folder, adapter, device="cpu", dtype="float32", batch_size=batch_size, max_length=max_length)


@pytest.fixture(scope="module")
def one(causal_lm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(causal_lm_dir, tmp_path_factory.mktemp("reward") / "one", 0)


def test_equals_a_plain_pass(one: Path) -> None:
    expected = plain(one, TEXTS)
    for size in (1, 3, 100):
        scorer = models(one, batch_size=size)
        found = scorer.score(TEXTS, KINDS)  # of whatever kind: one model is for all
        assert found == expected and len({round(reward, 3) for reward in found}) == len(TEXTS)
        assert scorer.score(TEXTS[::-1], ["gec"] * len(TEXTS)) == pytest.approx(found[::-1], abs=1e-5)
        assert scorer.score([], []) == [] and scorer.truncated == 0


def test_of_a_longer_text_the_end_is_kept(one: Path) -> None:
    short = models(one, max_length=19)
    assert short.score(TEXTS, KINDS) == plain(one, TEXTS, limit=19)
    assert short.truncated == 4
    short.score(TEXTS[:2], KINDS[:2])
    assert short.truncated == 5
    whole = models(one)  # with the model's window, 512 tokens
    text = "prices " * 600 + SENTENCE * 4
    assert whole.score([text, SENTENCE], ["gec"] * 2) == plain(one, [text, SENTENCE])
    assert whole.truncated == 1


@pytest.mark.parametrize("adapters", [False, True])
def test_each_kind_has_its_own(causal_lm_dir: Path, tmp_path: Path, adapters: bool) -> None:
    """Adapters as on a language model, whose head is in the adapter alone."""
    if adapters:
        top = make_adapters(causal_lm_dir, tmp_path / "reward")
        scorer = models(causal_lm_dir, top)
    else:
        # The tokenizer is at the top, as training saves it.
        top = make_model(causal_lm_dir, tmp_path / "reward", 0)
        top.joinpath("config.json").unlink()
        for seed, kind in enumerate(("gec", "fluency")):
            make_model(causal_lm_dir, top / kind, seed)
        scorer = models(top)
    found = scorer.score(TEXTS, KINDS)
    for kind in ("gec", "fluency"):
        places = [place for place, own in enumerate(KINDS) if own == kind]
        texts = [TEXTS[place] for place in places]
        expected = plain(causal_lm_dir, texts, top / kind) if adapters else plain(top / kind, texts)
        assert [found[place] for place in places] == expected
    first, second = scorer.score([SENTENCE] * 2, ["gec", "fluency"])
    assert abs(first - second) > 0.01
    scorer.require(["gec", "fluency"])
    with pytest.raises(UserError, match="reward: none for task simple; it has fluency, gec"):
        scorer.require(["gec", "simple"])
    with pytest.raises(UserError, match="reward: none for task simple; it has fluency, gec: train it on contests"):
        scorer.score(TEXTS[:2], ["gec", "simple"])


def test_a_model_with_two_outputs(causal_lm_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a reward model has one"):
        models(make_model(causal_lm_dir, tmp_path / "two", 0, outputs=2)).score(["a"], ["gec"])


def test_a_model_without_a_head_has_no_random_one(causal_lm_dir: Path) -> None:
    with pytest.raises(UserError):
        models(causal_lm_dir).score(["a"], ["gec"])


@pytest.mark.parametrize("adapters", [False, True])
def test_a_damaged_file(causal_lm_dir: Path, tmp_path: Path, adapters: bool) -> None:
    if adapters:
        scorer, file = models(causal_lm_dir, make_adapters(causal_lm_dir, tmp_path)), "gec/adapter_model.safetensors"
    else:
        scorer, file = models(make_model(causal_lm_dir, tmp_path, 0)), "model.safetensors"
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot be loaded"):
        scorer.score(["a"], ["gec"])


def test_after_a_kind_that_cannot_be_loaded_the_others_can(causal_lm_dir: Path, tmp_path: Path) -> None:
    make_model(causal_lm_dir, tmp_path, 0).joinpath("config.json").unlink()
    config = make_model(causal_lm_dir, tmp_path / "gec", 1) / "config.json"
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "config.json").write_bytes(config.read_bytes())
    scorer = models(tmp_path)
    found = scorer.score(["a"], ["gec"])
    with pytest.raises(UserError, match="cannot be loaded"):
        scorer.score(["a"], ["cut"])
    assert scorer.score(["a"], ["gec"]) == found
