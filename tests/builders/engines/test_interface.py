"""The engines' common interface: options, settings and what importing it costs."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from builders.engines import Completion, SamplingSettings, end_token_ids, load_engine
from scorers.errors import UserError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"kind": "transfomers"},
            r"^engine 'transfomers' is unknown, did you mean transformers\?; allowed are transformers, vllm$",
        ),
        ({"kind": "zzz"}, r"^engine 'zzz' is unknown; allowed are transformers, vllm$"),
        ({"device": "cdua"}, r"^engine device 'cdua' is unknown, did you mean cuda\?; allowed are auto, cpu, cuda$"),
        (
            {"dtype": "float23"},
            r"^engine dtype 'float23' is unknown, did you mean float32\?; allowed are auto, float32",
        ),
        ({"batch_size": 0}, r"batch_size is 0; set it to at least 1"),
        ({"tensor_parallel": 2}, r"tensor_parallel is 2, this engine runs on one device"),
    ],
)
def test_bad_options_are_named(causal_lm_dir: Path, options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"kind": "transformers", "model": str(causal_lm_dir), **options}
    with pytest.raises(UserError, match=message):
        load_engine(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": 1, "temperature": -1.0}, "temperature is -1.0"),
        ({"max_new_tokens": 1, "temperature": float("nan")}, "temperature is nan"),
        ({"max_new_tokens": 1, "top_p": 0.0}, "top_p is 0.0"),
        ({"max_new_tokens": 1, "top_p": 1.5}, "top_p is 1.5"),
        ({"max_new_tokens": 1, "top_k": 0}, "top_k is 0"),
        ({"max_new_tokens": 1, "presence_penalty": 2.5}, "presence_penalty is 2.5"),
        ({"max_new_tokens": 1, "stop": ("a", "")}, "stop holds an empty text"),
        ({"max_new_tokens": 1, "pattern": "(a"}, r"pattern '\(a' is no regular expression \(missing \), unterminated"),
    ],
)
def test_bad_settings_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SamplingSettings(**arguments)


def test_the_engine_transformers_takes_no_pattern(causal_lm_dir: Path) -> None:
    engine = load_engine("transformers", str(causal_lm_dir), device="cpu")
    with pytest.raises(UserError) as error:
        engine.generate([[{"role": "user", "content": "a"}]], [0], SamplingSettings(4, pattern="a"))
    assert str(error.value) == (
        "engine transformers: a pattern is given, and this engine cannot hold completions to one; use the engine vllm, "
        "or give none"
    )


def test_a_completion_need_not_tell_its_tokens() -> None:
    # As of a server, which gives a text, why it ended and how many tokens it has.
    answer = Completion("Text.", "stop", 3)
    assert (answer.text, answer.finish_reason, answer.num_tokens) == ("Text.", "stop", 3)
    assert answer.token_ids is None and answer.logprob is None


def test_importing_the_interface_loads_nothing_heavy() -> None:
    code = (
        "import sys, builders.engines, builders.engines.decoding, builders.engines.transformers_engine, "
        "builders.engines.vllm_engine; print({'torch', 'transformers', 'vllm', 'peft'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


class Settings:
    """A tokenizer or configuration with these attributes."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


@pytest.mark.parametrize(
    ("own", "generation", "expected"),
    [(2, None, [2]), (2, 5, [2, 5]), (2, [7, 5], [2, 5, 7]), (None, [7], [7]), (None, None, []), (2, [2], [2])],
)
def test_end_tokens_are_joined(own: int | None, generation: int | list[int] | None, expected: list[int]) -> None:
    assert end_token_ids(Settings(eos_token_id=own), generation) == expected
