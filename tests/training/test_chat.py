"""Conversations as token ids: what was sampled stays letter by letter, whatever a template does to an answer."""

import functools
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorers.errors import UserError
from training.chat import Rendered, forget_how_loaded, render, tokenize

# ChatML with a line break after every turn; ANSWER stands for what is done to an assistant's text.
TURNS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}ANSWER{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Qwen3's: an answer without thoughts is shown with empty ones, and the prompt only where thinking is off.
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
# As Mistral's: the space after the prompt belongs to the answer.
SPACED = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content | trim }}<|im_end|>{% endif %}{% endfor %}"
)
# A prompt that changes once it is answered.
REWRITING = (
    "{% for m in messages %}{% if loop.last and m.role == 'user' %}<last>{% endif %}{{ m.content }}<|im_end|>"
    "{% endfor %}"
)
ALTERNATING = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('Only user\nand assistant roles') }}"
    "{% endif %}{{ m.content }}{% endfor %}"
)
PROMPT = [{"role": "user", "content": "River?"}]
BEFORE = "<|im_start|>user\nRiver?<|im_end|>\n<|im_start|>assistant\n"


def reply(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


@functools.cache
def tokenizer_with(folder: Path, template: str | None) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("shown", ["{{ m.content }}", "{{ m.content | trim }}", "{{ m.content.lstrip('\n') }}",
                                   "{{ m.content.rstrip() }}"])  # fmt: skip
@pytest.mark.parametrize("text", ["Trade.", "\n\nTrade. \n", " Trade.\n", "Trade.\n\n", "", " \n"])
def test_the_answer_is_kept_whatever_the_template_strips(causal_lm_dir: Path, shown: str, text: str) -> None:
    tokenizer = tokenizer_with(causal_lm_dir, TURNS.replace("ANSWER", shown))
    assert render(tokenizer, PROMPT, reply(text), {}) == Rendered(BEFORE, text, "<|im_end|>")


@settings(max_examples=60)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_ids_are_those_of_prompt_answer_and_end(causal_lm_dir: Path, text: str) -> None:
    tokenizer = tokenizer_with(causal_lm_dir, TURNS.replace("ANSWER", "{{ m.content | trim }}"))
    (prompt,), (completion,) = tokenize(tokenizer, [PROMPT], [reply(text)], {})
    assert prompt == tokenizer.apply_chat_template(PROMPT, add_generation_prompt=True, return_dict=False)
    assert completion[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    # The tokenizer composes characters first, as Qwen's do.
    assert tokenizer.decode(completion) == unicodedata.normalize("NFC", text) + "<|im_end|>"


def test_a_saved_tokenizer_does_not_say_how_it_was_loaded(causal_lm_dir: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    saved = set()
    for offline in (False, True):
        tokenizer = AutoTokenizer.from_pretrained(causal_lm_dir, local_files_only=offline)
        forget_how_loaded(tokenizer)
        tokenizer.save_pretrained(tmp_path / str(offline))
        saved.add((tmp_path / str(offline) / "tokenizer_config.json").read_bytes())
    assert len(saved) == 1 and b"local" not in saved.pop()


def test_what_was_cut_at_the_limit_has_no_end(causal_lm_dir: Path) -> None:
    tokenizer = tokenizer_with(causal_lm_dir, TURNS.replace("ANSWER", "{{ m.content }}"))
    _, completions = tokenize(tokenizer, [PROMPT] * 2, [reply("Trade grew")] * 2, {}, finished=[True, False])
    assert [tokenizer.decode(ids) for ids in completions] == ["Trade grew<|im_end|>", "Trade grew"]
    assert tokenize(tokenizer, [], [], {}) == ([], [])


def test_a_space_that_the_template_puts_is_not_part_of_the_answer(causal_lm_dir: Path) -> None:
    tokenizer = tokenizer_with(causal_lm_dir, SPACED)
    expected = Rendered("[INST] River? [/INST]", "Trade.", "<|im_end|>")
    assert render(tokenizer, PROMPT, reply("Trade."), {}) == expected
    assert render(tokenizer, PROMPT, reply(" Trade."), {}) == expected._replace(answer=" Trade.")


def test_a_thinking_template_is_trained_as_it_was_sampled_or_refused(causal_lm_dir: Path) -> None:
    tokenizer = tokenizer_with(causal_lm_dir, THINKING)
    off = {"enable_thinking": False}
    expected = Rendered(BEFORE + "<think>\n\n</think>\n\n", "Trade.", "<|im_end|>")
    assert render(tokenizer, PROMPT, reply("Trade."), off) == expected
    assert render(tokenizer, PROMPT, reply(""), off) == expected._replace(answer="")
    message = (
        r"renders an answered prompt otherwise .* \(it has '<think>.* where 'Trade\.' was expected\); a template that "
        r"thinks needs engines\.policy\.chat_template_kwargs=\{enable_thinking: false\}"
    )
    with pytest.raises(UserError, match=message):
        render(tokenizer, PROMPT, reply("Trade."), {})
    with pytest.raises(UserError, match="renders an answered prompt otherwise"):
        render(tokenizer, PROMPT, reply(""), {})  # an empty answer must not take the thoughts for the end of a turn


def test_a_template_that_rewrites_the_prompt_is_refused(causal_lm_dir: Path) -> None:
    tokenizer = tokenizer_with(causal_lm_dir, REWRITING)
    with pytest.raises(UserError, match=r"it has 'River\?<\|im_end\|>.* where '<last>River\?.* was expected"):
        render(tokenizer, PROMPT, reply("Trade."), {})


def test_no_template_and_refused_roles_are_one_line(causal_lm_dir: Path) -> None:
    with pytest.raises(UserError, match=r"causal-lm: no chat template found; set engines.policy.chat_template=FILE"):
        render(tokenizer_with(causal_lm_dir, None), PROMPT, reply("Trade."), {})
    system = [{"role": "system", "content": "Use tags."}, *PROMPT]
    with pytest.raises(UserError, match=r"refuses the messages \(Only user and assistant roles\); use the roles"):
        render(tokenizer_with(causal_lm_dir, ALTERNATING), system, reply("Trade."), {})
