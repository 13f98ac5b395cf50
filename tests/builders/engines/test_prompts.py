"""Prompts under chat templates like those of real families: variables, special tokens, system roles."""

from pathlib import Path
from typing import Any

import pytest
from tiny_models import make_causal_lm

from builders.core.prompting import chat
from builders.engines import Engine, SamplingSettings, load_engine
from builders.engines.prompts import (
    check_template,
    check_template_kwargs,
    encode_prompts,
    prompt_ends_with,
    template_variables,
)
from scorers.errors import UserError
from training.chat import render

# Every message between the same two tokens; a reasoning model's template, which opens and closes an empty block for an
# answer without thought.
THINKING = (
    "{%- for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor -%}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n"
    "{%- if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif -%}"
)
# The beginning of sequence stands in the text of the template.
LLAMA = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
# The system message goes into the first turn.
MISTRAL = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set first = '' %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}{% if m.role == 'user' %}[INST] {{ first if loop.first }}{{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}{% else %}"
    "{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)
# No system role at all.
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}<turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}</turn>\n{% endfor %}{% if add_generation_prompt %}<turn>model\n{% endif %}"
)
DEAF = LLAMA.replace("in messages", "in messages if m.role != 'system'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose tokenizer puts a beginning of sequence before every text by itself, as Llama's does."""
    from tokenizers import processors
    from transformers import AutoTokenizer

    path = make_causal_lm(tmp_path_factory.mktemp("models") / "llama-like")
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.bos_token = "<|im_start|>"
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", pair="$A $B", special_tokens=[("<|im_start|>", tokenizer.bos_token_id)]
    )
    tokenizer.save_pretrained(path)
    return path


def tokenizer_with(folder: Path, template: str) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    return tokenizer


def encoded(tokenizer: Any, *, system: str | None = None, **template_kwargs: Any) -> list[int]:
    prompts = [chat("Write.", system=system)]
    return encode_prompts(tokenizer, prompts, [0], 1, 512, template_kwargs)[0]


@pytest.mark.parametrize(
    ("template", "system", "text"),
    [
        (LLAMA, "Be brief.", "<|im_start|>[system]Be brief.<|im_end|>[user]Write.<|im_end|>[assistant]"),
        (MISTRAL, "Be brief.", "<|im_start|>[INST] Be brief.\n\nWrite. [/INST]"),
        (GEMMA, None, "<|im_start|><turn>user\nWrite.</turn>\n<turn>model\n"),
    ],
)
def test_the_beginning_of_sequence_comes_once(folder: Path, template: str, system: str | None, text: str) -> None:
    tokenizer = tokenizer_with(folder, template)
    ids = encoded(tokenizer, system=system)
    assert tokenizer("Write.")["input_ids"][0] == tokenizer.bos_token_id, "the tokenizer adds one to plain text"
    assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text and ids.count(tokenizer.bos_token_id) == 1


def test_variables_change_the_prompt(folder: Path) -> None:
    tokenizer = tokenizer_with(folder, THINKING)
    plain = tokenizer.decode(encoded(tokenizer))
    assert plain.endswith("assistant") and encoded(tokenizer, enable_thinking=True) == encoded(tokenizer)
    off = tokenizer.decode(encoded(tokenizer, enable_thinking=False))
    assert off == plain + "<think>\n\n</think>\n\n"


def test_variables_of_a_template(folder: Path) -> None:
    assert template_variables(tokenizer_with(folder, THINKING)) == ["enable_thinking"]
    for template in (LLAMA, GEMMA):
        assert template_variables(tokenizer_with(folder, template)) == []
    # Many templates set a variable where the user has not, so a name that is set under a condition counts.
    default = "{% if not date is defined %}{% set date = 'today' %}{% endif %}{{ date }}"
    assert template_variables(tokenizer_with(folder, default)) == ["date"]
    # What transformers adds to Jinja2: a block for the assistant's part, loop controls, the date.
    more = (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% if m.role == 'tool' %}{% break %}{% endif %}"
        "{% generation %}{{ m.content + effort }}{% endgeneration %}{{ strftime_now('%Y') }}{% endfor %}"
        "{{ range(3) }}{{ tools }}{{ persona }}{{ pad_token }}"
    )
    assert template_variables(tokenizer_with(folder, more)) == ["effort", "persona"]
    with pytest.raises(UserError, match=r"^the chat template of .* is no Jinja2 template \(.*\); correct it$"):
        template_variables(tokenizer_with(folder, "{% if %}"))


@pytest.mark.parametrize(
    ("template", "name", "message"),
    [
        (
            THINKING,
            "enable_thinkin",
            "enable_thinkin is no variable of the chat template of {0}, did you mean enable_thinking?; variables: "
            "enable_thinking",
        ),
        (LLAMA, "enable_thinking", "enable_thinking is no variable of the chat template of {0}; variables: none"),
        # They would take the place of what sampling itself has to say.
        (LLAMA, "messages", "messages is no variable of the chat template of {0}; variables: none"),
        (
            LLAMA,
            "add_generation_prompt",
            "add_generation_prompt is no variable of the chat template of {0}; variables: none",
        ),
    ],
)
def test_a_variable_that_the_template_does_not_use(folder: Path, template: str, name: str, message: str) -> None:
    tokenizer = tokenizer_with(folder, template)
    with pytest.raises(UserError) as caught:
        check_template_kwargs(tokenizer, {name: False})
    assert str(caught.value) == "engines.policy.chat_template_kwargs: " + message.format(tokenizer.name_or_path)


def test_without_variables_a_template_is_not_read(folder: Path) -> None:
    assert check_template_kwargs(tokenizer_with(folder, "{% if %}"), {}) == {}


def engine_with(folder: Path, copy: Path, template: str, **template_kwargs: Any) -> Engine:
    import shutil

    shutil.copytree(folder, copy, dirs_exist_ok=True)
    tokenizer_with(folder, template).save_pretrained(copy)
    return load_engine("transformers", str(copy), device="cpu", chat_template_kwargs=template_kwargs)


def test_an_engine_samples_under_its_variables(folder: Path, tmp_path: Path) -> None:
    prompts, settings = [chat("Write."), chat("Trade."), chat("Write.")], SamplingSettings(8, temperature=0.0)
    off = engine_with(folder, tmp_path, THINKING, enable_thinking=False).generate(prompts, range(3), settings)
    # The same text in a template that has no choice.
    closed = THINKING.replace("enable_thinking is defined and enable_thinking is false", "true")
    same = engine_with(folder, tmp_path, closed).generate(prompts, range(3), settings)
    plain = engine_with(folder, tmp_path, THINKING).generate(prompts, range(3), settings)
    assert off == same and off[0] == off[2]
    assert [completion.logprob for completion in off] != [completion.logprob for completion in plain]
    with pytest.raises(UserError, match=r"^engines\.policy\.chat_template_kwargs: enabled is no variable of the chat"):
        engine_with(folder, tmp_path, THINKING, enabled=False)


@pytest.mark.parametrize(
    ("template", "fault"),
    [(GEMMA, r"refuses it \(System role not supported\)"), (DEAF, "leaves it out")],
)
def test_a_template_without_a_system_role(folder: Path, template: str, fault: str) -> None:
    tokenizer = tokenizer_with(folder, template)
    with pytest.raises(
        UserError, match=rf"^system prompt: the chat template of .* {fault}; set sample.system_prompt: null, or engines"
    ):
        encoded(tokenizer, system="Be brief.")
    assert encoded(tokenizer)


def test_whether_a_prompt_opens_a_block(folder: Path) -> None:
    always = tokenizer_with(folder, LLAMA.replace("[assistant]", "[assistant]<think>\n"))
    thinking = tokenizer_with(folder, THINKING)
    assert prompt_ends_with(always, chat("Write."), {}, "<think>")
    assert not prompt_ends_with(thinking, chat("Write."), {}, "<think>")
    assert not prompt_ends_with(thinking, chat("Write."), {"enable_thinking": False}, "<think>")


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{{ messages[7].content }}", "no element 7"),
        ("{% for i in range(10 ** 9) %}{{ i }}{% endfor %}", "OverflowError"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
    ],
)
def test_whatever_goes_wrong_in_a_template_is_one_line(folder: Path, template: str, fault: str) -> None:
    tokenizer = tokenizer_with(folder, template)
    with pytest.raises(UserError, match=rf"the chat template of .* refuses it \(.*{fault}") as error:
        encoded(tokenizer)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=rf"the chat template of .* refuses the messages \(.*{fault}"):
        render(tokenizer, chat("Write."), [{"role": "assistant", "content": "A."}], {})


def test_a_filter_that_there_is_not(folder: Path) -> None:
    with pytest.raises(UserError, match=r"is no Jinja2 template \(No filter named 'nosuch'"):
        check_template(tokenizer_with(folder, "{{ messages | nosuch }}"), [chat("Write.")], {})


def test_the_clock_of_a_template_stands_still(folder: Path) -> None:
    # A clock that ran would give other prompts on another day, and two prompts in a run across midnight.
    template = "{{ strftime_now('%d %b %Y, %H:%M:%S.%f') }} {% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer = tokenizer_with(folder, template)
    assert tokenizer.decode(encoded(tokenizer)) == "26 Jul 2024, 00:00:00.000000 Write."
    assert render(tokenizer, chat("Write."), [{"role": "assistant", "content": "A."}], {}).prompt.startswith("26 Jul")
