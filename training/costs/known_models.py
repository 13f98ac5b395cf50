"""Shapes of the models that the presets name, for `grace plan` without a network: facts of their public config.json.

Only what decides parameters, memory and time is here; a model that is at hand is read from its own config.json.
"""

from typing import Any

_QWEN = {"model_type": "qwen2", "dtype": "bfloat16", "rope_theta": 1_000_000.0, "hidden_act": "silu"}
_HALF_BILLION = {
    **_QWEN, "vocab_size": 151_936, "hidden_size": 896, "intermediate_size": 4_864, "num_hidden_layers": 24,
    "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True, "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32_768,
}  # fmt: skip
_SEVEN_BILLION = {
    **_QWEN, "vocab_size": 152_064, "hidden_size": 3_584, "intermediate_size": 18_944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False, "rms_norm_eps": 1e-6,
}  # fmt: skip
_SEVENTY_TWO_BILLION = {
    **_QWEN, "vocab_size": 152_064, "hidden_size": 8_192, "intermediate_size": 29_568, "num_hidden_layers": 80,
    "num_attention_heads": 64, "num_key_value_heads": 8, "tie_word_embeddings": False,
}  # fmt: skip

KNOWN: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2.5-0.5B": _HALF_BILLION,
    "Qwen/Qwen2.5-0.5B-Instruct": _HALF_BILLION,
    "Qwen/Qwen2.5-7B": {**_SEVEN_BILLION, "max_position_embeddings": 131_072},
    "Qwen/Qwen2.5-7B-Instruct": {**_SEVEN_BILLION, "max_position_embeddings": 32_768},
    "Qwen/Qwen2.5-72B": {**_SEVENTY_TWO_BILLION, "rms_norm_eps": 1e-5, "max_position_embeddings": 131_072},
    "Qwen/Qwen2.5-72B-Instruct": {**_SEVENTY_TWO_BILLION, "rms_norm_eps": 1e-6, "max_position_embeddings": 32_768},
    "BAAI/bge-m3": {
        "model_type": "xlm-roberta", "dtype": "float32", "vocab_size": 250_002, "hidden_size": 1_024,
        "intermediate_size": 4_096, "num_hidden_layers": 24, "num_attention_heads": 16, "hidden_act": "gelu",
        "max_position_embeddings": 8_194, "type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1,
        "bos_token_id": 0, "eos_token_id": 2,
    },
}  # fmt: skip
"""By id on the Hub: the entries of the model's configuration."""
