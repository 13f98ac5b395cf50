"""Shapes: counted parameters are those of real modules of several families and of the public checkpoints."""

import json
from pathlib import Path
from typing import Any

import pytest

from builders.store.store import Store
from scorers.errors import UserError
from training.costs.shapes import SHIPPED, Found, find_config, shape_of

COMMON = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
H, INNER, V, KEYS = 64, 160, 300, 32
ATTENTION, MLP = 2 * H * H + 2 * H * KEYS, 3 * H * INNER
# What a layer of each family has besides its matrices: norms, and Qwen2's biases of queries, keys and values.
FAMILIES: dict[str, tuple[int, int]] = {
    "qwen2": (2 * H + H + 2 * KEYS, 2),
    "llama": (2 * H, 2),
    "mistral": (2 * H, 2),
    "gemma2": (4 * H, 4),
}


def config_of(family: str, **more: Any) -> Any:
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[family](**COMMON, **more)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_parts_add_up_to_the_real_modules(family: str, tied: bool) -> None:
    from transformers import AutoModelForCausalLM

    config = config_of(family, tie_word_embeddings=tied, **({"head_dim": 16} if family == "gemma2" else {}))
    shape = shape_of(family, Found(config, "here"))
    real = AutoModelForCausalLM.from_config(config)
    assert shape.total == real.num_parameters()
    vectors, norms = FAMILIES[family]
    assert (shape.embedding, shape.head, shape.tied) == (V * H, 0 if tied else V * H, tied)
    assert shape.layers == 3 * (ATTENTION + MLP + vectors)
    assert (shape.linear, shape.rest, shape.norms) == (3 * (ATTENTION + MLP), H, norms)
    assert (shape.hidden, shape.inner, shape.attention, shape.keys, shape.gated) == (H, INNER, H, KEYS, True)
    assert shape.capped == (family == "gemma2")


def test_an_encoder_has_no_head() -> None:
    from transformers import AutoModel

    config = config_of("xlm-roberta", type_vocab_size=1)
    shape = shape_of("encoder", Found(config, "here"))
    assert shape.total == AutoModel.from_config(config).num_parameters()
    assert (shape.head, shape.gated, shape.norms) == (0, False, 2)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("Qwen/Qwen2.5-0.5B", 494_032_768),
        ("Qwen/Qwen2.5-7B-Instruct@main", 7_615_616_512),
        ("Qwen/Qwen2.5-72B-Instruct", 72_706_203_648),
        ("BAAI/bge-m3", 567_754_752),
    ],
)
def test_known_models_have_the_parameters_of_their_checkpoints(
    name: str, parameters: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    found = find_config(name, Store(tmp_path / "store"))
    assert (shape_of(name, found).total, found.origin) == (parameters, SHIPPED)


def test_a_folder_comes_before_the_table(causal_lm_dir: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    found = find_config(str(causal_lm_dir), Store(tmp_path))
    assert found.origin == "its folder"
    shape = shape_of("tiny", found)
    assert shape.total == AutoModelForCausalLM.from_pretrained(causal_lm_dir).num_parameters()
    assert (shape.window, shape.stored) == (512, 4)


def test_a_model_that_is_nowhere_here(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^model alice/none: no config\.json of it is here, .*`grace pull alice/none"):
        find_config("alice/none", Store(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no such"}))
    with pytest.raises(UserError, match=r"its config\.json cannot be read"):
        find_config(str(tmp_path), Store(tmp_path / "store"))
