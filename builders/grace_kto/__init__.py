"""GRACE-KTO's datasets: seeds, queries, groups, scores, weights."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from builders.grace_kto.calibrate import calibrate_frame
    from builders.grace_kto.query_parser import parse_queries
    from builders.grace_kto.settings import GraceKTOSettings

__all__ = ["GraceKTOSettings", "calibrate_frame", "parse_queries"]

_HOME = {
    "GraceKTOSettings": "builders.grace_kto.settings",
    "calibrate_frame": "builders.grace_kto.calibrate",
    "parse_queries": "builders.grace_kto.query_parser",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for."""
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
