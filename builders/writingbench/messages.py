"""What the prompts of WritingBench say besides their files: the pool of guidance, and the heading of the material."""

import functools
from collections.abc import Mapping
from typing import TypeVar

import yaml

from builders.core.languages import prompt_name
from builders.writingbench.settings import PROMPTS

T = TypeVar("T")


@functools.cache
def guidance() -> Mapping[str, Mapping[str, str]]:
    """Return the pool of guidance: by requirement and language, what a request is asked for in addition (C.2)."""
    pool: dict[str, dict[str, str]] = yaml.safe_load((PROMPTS / "guidance.yaml").read_text(encoding="utf-8"))
    return pool


def in_language(texts: Mapping[str, T], language: str) -> T:
    """Return what belongs to a language; what belongs to English where there is nothing."""
    return texts[prompt_name("", language, [f".{code}" for code in texts]).removeprefix(".")]


def join_material(request: str, material: str | None, language: str) -> str:
    """Return the whole query: the request, and below it the material under a heading."""
    if material is None:
        return request
    heading = in_language({"en": "Material:", "zh": "材料："}, language)
    return f"{request}\n\n{heading}\n\n{material}"
