"""Prompts filled in: templates of Jinja2, rendered in a sandbox.

What people and models wrote stands in a prompt between lines of equals signs, more than any of these texts has in a
row, so that none of them can end its own place.
"""

import functools
import re
from typing import Any

from jinja2 import StrictUndefined, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment


def fence(*texts: str) -> str:
    """Return a line of equals signs, longer than any run of them in the texts.

    >>> fence("a", "=======")
    '========'
    """
    return "=" * max(5, 1 + max((len(run) for text in texts for run in re.findall("=+", text)), default=0))


def render_prompt(text: str, **values: Any) -> str:
    """Render a prompt with values, which are inserted as text and never read as templates.

    Raises:
        jinja2.UndefinedError: for a value that the prompt uses and the caller leaves out.
    """
    return _template(text).render(**values)


# Compiling a prompt takes a millisecond, and a round renders one for every attempt.
@functools.lru_cache(maxsize=16)
def _template(text: str) -> Template:
    """Return a compiled prompt."""
    # StrictUndefined: a misspelt variable is an error, not an empty string.
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(text)
