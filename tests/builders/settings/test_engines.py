"""An engine's settings come in kinds: which keys each kind has, and mistakes named by their path without the kind."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from builders.engines import KINDS
from builders.grace_kto.settings import Engines, GraceKTOSettings
from builders.settings.engines import (
    EngineSettings,
    OpenAIEngineSettings,
    TransformersEngineSettings,
    VllmEngineSettings,
)
from builders.settings.load import sections_in
from scorers.errors import UserError
from training.pipelines import load_config


def test_the_kind_decides_the_section() -> None:
    plain: GraceKTOSettings = load_config("tiny")
    assert isinstance(plain.engines.policy, TransformersEngineSettings)
    vllm: GraceKTOSettings = load_config("tiny", ["engines.policy.kind=vllm", "engines.policy.tensor_parallel=2"])
    assert isinstance(vllm.engines.policy, VllmEngineSettings)
    # What the preset says of the engine stays.
    own = {"kind": "vllm", "tensor_parallel": 2, "pipeline_parallel": 1, "memory_share": 0.9, "sleep": False}
    expected = plain.engines.policy.model_dump() | own
    assert vllm.engines.policy.model_dump() == expected


def test_another_kind_leaves_out_what_the_preset_says_of_its_own(tmp_path: Path) -> None:
    config: GraceKTOSettings = load_config("tiny", ["engines.policy.kind=openai"])
    assert config.engines.policy == OpenAIEngineSettings()
    path = tmp_path / "mine.yaml"
    path.write_text("preset: tiny\nengines: {policy: {kind: openai, concurrency: 3}}\n")
    config = load_config(str(path))
    assert config.engines.policy == OpenAIEngineSettings(concurrency=3)
    # What the user says stays, and is told.
    path.write_text("preset: tiny\nengines: {policy: {kind: openai, device: cpu}}\n")
    with pytest.raises(UserError, match=r"mine.yaml: unknown key engines.policy.device; allowed there: base_url"):
        load_config(str(path))


def test_without_a_kind_it_is_transformers() -> None:
    config: GraceKTOSettings = load_config("tiny", ["engines.policy={batch_size: 3}"])
    assert config.engines.policy == TransformersEngineSettings(batch_size=3)
    assert load_config("tiny", ["engines={}"]).engines == Engines()
    assert Engines(policy=VllmEngineSettings()).policy.kind == "vllm"


def test_every_engine_has_its_settings() -> None:
    found = sections_in(EngineSettings)
    assert {section.model_fields["kind"].default for section in found} == {*KINDS, "openai"}
    for kind in (*KINDS, "openai"):
        assert TypeAdapter(EngineSettings).validate_python({"kind": kind}).kind == kind


def template_kwargs(*overrides: str) -> dict[str, Any]:
    config: GraceKTOSettings = load_config("tiny", overrides)
    return config.engines.policy.chat_template_kwargs


def test_variables_of_the_chat_template_come_one_by_one_or_as_a_whole() -> None:
    path = "engines.policy.chat_template_kwargs"
    assert template_kwargs() == {}
    assert template_kwargs(f"{path}.enable_thinking=false") == {"enable_thinking": False}
    assert template_kwargs(f"{path}={{enable_thinking: false}}") == {"enable_thinking": False}
    assert template_kwargs("engines.policy.kind=vllm", f"{path}.effort=low") == {"effort": "low"}
    both = template_kwargs(f"{path}={{enable_thinking: false, date: null}}", f"{path}.budget=3", f"{path}.share=0.5")
    assert both == {"enable_thinking": False, "date": None, "budget": 3, "share": 0.5}


def test_settings_with_variables_can_be_told_apart_in_a_cache() -> None:
    # Loaded engines are kept by their settings.
    off, on, same = (TransformersEngineSettings(chat_template_kwargs={"thinking": v}) for v in (False, True, False))
    assert {off: "off", on: "on"}[same] == "off"


SHARED = "batch_size, chat_template, chat_template_kwargs, context, device, dtype, kind"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["engines.policy.batchsize=3"],
            f"--set: unknown key engines.policy.batchsize, did you mean batch_size?; allowed there: {SHARED}",
        ),
        (
            ["engines.policy.kind=vllm", "engines.policy.tensor_paralel=3"],
            "--set: unknown key engines.policy.tensor_paralel, did you mean tensor_parallel?; "
            f"allowed there: {SHARED}, memory_share, pipeline_parallel, sleep, tensor_parallel",
        ),
        (
            ["engines.policy.tensor_parallel=2"],
            f"--set: unknown key engines.policy.tensor_parallel; allowed there: {SHARED}",
        ),
        (
            ["engines.policy.kind=vlm"],
            "--set: engines.policy.kind is 'vlm', did you mean vllm?; kinds: transformers, vllm, openai",
        ),
        (["engines.policy.kind=3"], "--set: engines.policy.kind is '3'; kinds: transformers, vllm, openai"),
        (
            ["engines.policy.batch_size=0"],
            "--set: engines.policy.batch_size is 0: input should be greater than or equal to 1",
        ),
        (
            ["engines.policy.kind=vllm", "engines.policy.tensor_parallel=two"],
            "--set: engines.policy.tensor_parallel is 'two': input should be a valid integer",
        ),
        (
            ["engines.policy.chat_template_kwargs.names=[a, b]"],
            "--set: engines.policy.chat_template_kwargs is {'names': ['a', 'b']}: names is "
            "['a', 'b']; give a text, a number, true, false or null",
        ),
        (
            ["engines.policy.chat_template_kwargs.share=.inf"],
            "--set: engines.policy.chat_template_kwargs is {'share': inf}: share is inf; give a "
            "text, a number, true, false or null",
        ),
        (
            ["engines.policy.chat_template_kwargs=off"],
            "--set: engines.policy.chat_template_kwargs is False: input should be an object",
        ),
        (["engines.policy=vllm"], "--set: engines.policy is 'vllm': a section is needed"),
        (["engines.policy=null"], "--set: engines.policy is None: a section is needed"),
        (
            ["engines.polcy.kind=vllm"],
            "--set: unknown key engines.polcy, did you mean policy?; allowed there: criteria, judge, policy, teacher",
        ),
    ],
)
def test_a_mistake_is_named_by_its_path_without_the_kind(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        load_config("tiny", overrides)
    assert str(error.value) == message


TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def test_a_chat_template_is_read_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the configuration's file comes first, then the working directory; a text stands for itself."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "chat.jinja").write_text(TEMPLATE + "\n")
    (folder / "grace.yaml").write_text("preset: tiny\nengines: {policy: {chat_template: chat.jinja}}\n")
    monkeypatch.chdir(tmp_path)
    config: GraceKTOSettings = load_config("mine/grace.yaml")
    assert config.engines.policy.chat_template == TEMPLATE
    monkeypatch.chdir(folder)
    for overrides in (["chat_template=chat.jinja"], ["kind=vllm", f"chat_template={folder / 'chat.jinja'}"]):
        config = load_config("tiny", [f"engines.policy.{override}" for override in overrides])
        assert config.engines.policy.chat_template == TEMPLATE
    assert TransformersEngineSettings(chat_template=TEMPLATE).chat_template == TEMPLATE


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"^--set: engines\.policy\.chat_template is .*: there is no file /.*/chat\.jinja; give a Jinja file$"),
        (b"\xff\xfe{", r"chat\.jinja is no text in UTF-8 \(.*\); give a Jinja file"),
        (b"Hello", r"chat\.jinja holds no tag of Jinja \(\{% or \{\{\); give a chat template"),
    ],
)
def test_a_chat_template_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "chat.jinja").write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_config("tiny", ["engines.policy.chat_template=chat.jinja"])


def test_what_two_settings_of_a_kind_exclude_is_named_by_its_path() -> None:
    with pytest.raises(UserError) as error:
        load_config("tiny-writingbench", ["engines.teacher.base_url=http://localhost:9/v1"])
    assert str(error.value) == (
        "--set: engines.teacher: serve starts a server of its own, and base_url names another; set one of them to null"
    )
