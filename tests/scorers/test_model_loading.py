"""What a model's configuration says of its attention, its window and its layers."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scorers.errors import UserError
from scorers.model_loading import (
    HEADS,
    PICKLE,
    attention_for,
    check_all_weights,
    check_attention_only,
    check_weights,
    require_vocabulary,
    window_in,
)


def config_of(family: str, **values: Any) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(family, **values)


def write_weights(folder: Path, *names: str) -> None:
    from safetensors.numpy import save_file

    for name in names:
        save_file({name: np.arange(64, dtype=np.float32)}, folder / name)
    index = {"weight_map": dict(zip("abc", names, strict=False))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def test_whole_weights_pass_and_a_cut_file_or_a_missing_one_is_named(tmp_path: Path) -> None:
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    write_weights(tmp_path, first, second)
    check_weights(tmp_path)
    whole = (tmp_path / second).read_bytes()
    for content in (whole[:-1], whole[: len(whole) // 2], whole[:4], b"", b"\xff" * 64):
        (tmp_path / second).write_bytes(content)
        with pytest.raises(UserError, match=rf"{second}: damaged \(.*\); copy the model again"):
            check_weights(tmp_path)
    (tmp_path / second).unlink()
    (tmp_path / second).mkdir()
    with pytest.raises(UserError, match=rf"{second}: cannot be opened; check its permissions"):
        check_weights(tmp_path)
    (tmp_path / second).rmdir()
    with pytest.raises(UserError, match=rf"{second} is missing, which model.safetensors.index.json lists"):
        check_weights(tmp_path)
    for text in ("[]", "{}", '{"weight_map": 1}', "{"):
        (tmp_path / "model.safetensors.index.json").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match="not an index of safetensors files"):
            check_weights(tmp_path)


def test_pickles_are_refused_but_those_of_bge_m3_as_it_was_published(tmp_path: Path) -> None:
    (tmp_path / PICKLE).touch()
    with pytest.raises(UserError, match=r"no \.safetensors file in it; models saved as pickles are not read"):
        check_weights(tmp_path)
    for head in HEADS:
        (tmp_path / head).touch()
    check_weights(tmp_path)


@pytest.mark.slow
def test_a_missing_weight_or_one_of_another_shape_is_told_and_not_drawn_at_random(
    tmp_path: Path, causal_lm_dir: Path
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    from builders.engines.loading import load_model, load_tokenizer_and_config
    from scorers.perplexity import Perplexity

    folder = tmp_path / "m"
    shutil.copytree(causal_lm_dir, folder)
    check_all_weights(folder)
    whole = load_file(folder / "model.safetensors")
    name = next(key for key in whole if "q_proj.weight" in key)
    _, config = load_tokenizer_and_config(str(folder), None)
    damages = {
        "lacks 1 weights, the first is": {key: value for key, value in whole.items() if key != name},
        "has another shape than its config.json asks for": whole | {name: whole[name][:5].clone()},
    }
    for words, tensors in damages.items():
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        for load in (
            lambda: check_all_weights(folder),
            lambda: load_model(str(folder), None, config, "cpu", "float32"),
            lambda: Perplexity(str(folder)),
        ):
            with pytest.raises(UserError, match=words):
                load()
    save_file(
        whole | {name: torch.full_like(whole[name], float("nan"))}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(UserError, match="gives NaN or infinite logits; its weights are damaged"):
        Perplexity(str(folder))


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path: Path, causal_lm_dir: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    tokenizer, config = AutoTokenizer.from_pretrained(causal_lm_dir), AutoConfig.from_pretrained(causal_lm_dir)
    require_vocabulary("m", tokenizer, config)
    tokenizer.add_tokens(["<image>"])  # beyond the embeddings, as a model that also reads pictures has it
    config.vocab_size = tokenizer.vocab_size
    require_vocabulary("m", tokenizer, config)
    config.vocab_size -= 1
    with pytest.raises(UserError, match=rf"tokenizer has {tokenizer.vocab_size} tokens and the model embeddings for "):
        require_vocabulary("m", tokenizer, config)


def test_shards_without_their_index_are_named(tmp_path: Path) -> None:
    write_weights(tmp_path, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors\.index\.json is missing, which lists its files"):
        check_weights(tmp_path)


@pytest.mark.parametrize("wanted", [None, "sdpa", "flash_attention_2", "eager"])
def test_a_soft_cap_needs_eager_attention(wanted: str | None) -> None:
    assert attention_for(config_of("gemma2"), wanted) == "eager"
    assert attention_for(config_of("gemma2", attn_logit_softcapping=None), wanted) == wanted
    # The text part of a model that also reads pictures.
    assert attention_for(config_of("gemma3"), wanted) == wanted
    assert attention_for(config_of("gemma3", text_config={"attn_logit_softcapping": 50.0}), wanted) == "eager"
    assert attention_for(config_of("llama"), wanted) == attention_for(config_of("gpt2"), wanted) == wanted


def test_a_window_has_several_names_or_none() -> None:
    assert window_in(config_of("llama", max_position_embeddings=77)) == 77
    assert window_in(config_of("gpt2", n_positions=78)) == 78
    assert window_in(config_of("gemma3", text_config={"max_position_embeddings": 79})) == 79
    assert window_in(config_of("mamba")) is window_in(config_of("bloom")) is None


@pytest.mark.parametrize(
    ("family", "found"),
    [
        ("mamba", "linear_attention"),
        ("qwen3_next", "linear_attention"),
        ("recurrent_gemma", "a recurrence"),
        ("rwkv", "a recurrence"),
        ("t5", "an encoder and a decoder"),
    ],
)
def test_other_models_than_decoders_of_attention_layers_are_refused(family: str, found: str) -> None:
    with pytest.raises(UserError) as caught:
        check_attention_only(config_of(family), "m", "training", "use another model")
    expected = f"model m: {family} has {found}, training takes decoders of attention layers alone; use another model"
    assert str(caught.value) == expected


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3", "mistral", "qwen3", "gpt2", "bloom", "gpt_oss"])
def test_decoders_of_attention_layers_are_taken(family: str) -> None:
    check_attention_only(config_of(family), "m", "training", "use another model")
