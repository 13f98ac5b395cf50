"""Options that are lists: what they mean, and mistakes in one line."""

from typing import get_args

import pytest

from builders.settings.context import ContextSettings
from scorers.context import METHODS
from scorers.errors import UserError
from training.options import CONTEXT_METHODS, methods_of, windows_of


def test_windows() -> None:
    assert windows_of("8k,16k,32k") == [8192, 16384, 32768]
    assert windows_of("512, 1k,1000") == [512, 1024, 1000]


@pytest.mark.parametrize(
    ("contexts", "part"),
    [("8kb", "8kb"), ("8k,", ""), ("", ""), ("1", "1"), ("0k", "0k"), ("-8", "-8"), ("8k,8192", "8192"), ("１", "１")],
)
def test_what_is_no_window(contexts: str, part: str) -> None:
    with pytest.raises(UserError) as error:
        windows_of(contexts)
    assert str(error.value) == (
        f"--contexts {contexts}: {part!r} is no further window; give numbers of tokens, each once, such as 8k,16k,32k"
    )


def test_methods() -> None:
    assert methods_of(CONTEXT_METHODS) == ["none", "dynamic", "yarn"]
    assert methods_of("yarn, none") == ["yarn", "none"]
    # `none` runs on beyond the model's window there, which a configuration calls extrapolation.
    assert {*methods_of(CONTEXT_METHODS), "extrapolation"} == set(METHODS)
    assert get_args(ContextSettings.model_fields["method"].annotation) == METHODS


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ("yarm", "'yarm' is no further method, did you mean yarn?;"),
        ("none,none", "'none' is no further method;"),
        ("", "'' is no further method;"),
    ],
)
def test_what_is_no_method(methods: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        methods_of(methods)
    assert str(error.value) == f"--methods {methods}: {said} give some of none, dynamic, yarn, each once"
