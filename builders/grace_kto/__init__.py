"""The dataset stages of GRACE-KTO (Deng et al., Findings of EMNLP 2025): seeds, queries, groups, scores, weights.

Its model stages and its graph are in training/grace_kto.
"""

import importlib
from typing import TYPE_CHECKING

# For type checkers and editors only: at run time `__getattr__` provides these names.
if TYPE_CHECKING:
    from builders.core.query_parser import read_queries
    from builders.grace_kto.calibrate import calibrate_frame
    from builders.grace_kto.settings import GraceKTOSettings

__all__ = ["GraceKTOSettings", "calibrate_frame", "read_queries"]

# The module that defines each public name.
_HOME = {
    "GraceKTOSettings": "builders.grace_kto.settings",
    "calibrate_frame": "builders.grace_kto.calibrate",
    "read_queries": "builders.core.query_parser",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562).

    Raises:
        AttributeError: for a name that is not public.
    """
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
