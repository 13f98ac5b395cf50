"""Versioned datasets and models: stages, pipelines, the local store, the Hub, and reading what others published.

The public names are imported on first use (PEP 562), so `import builders` alone loads neither polars nor pydantic.
"""

import importlib
from typing import TYPE_CHECKING

# For type checkers and editors only: at run time `__getattr__` provides these names.
if TYPE_CHECKING:
    from builders.cards.card import Card
    from builders.core.pipeline import Pipeline
    from builders.core.run import run
    from builders.core.stage import At, Context, Shard, ShardResult, Stage, Trained
    from builders.engines import SamplingSettings, load_engine
    from builders.hub.refs import open_revision
    from builders.inspect.diff import diff
    from builders.inspect.lineage import lineage
    from builders.inspect.verify import verify
    from builders.store.columns import column
    from builders.store.manifest import Manifest
    from builders.store.revision import Revision
    from builders.store.store import Store

__all__ = [
    "At",
    "Card",
    "Context",
    "Manifest",
    "Pipeline",
    "Revision",
    "SamplingSettings",
    "Shard",
    "ShardResult",
    "Stage",
    "Store",
    "Trained",
    "column",
    "diff",
    "lineage",
    "load_engine",
    "open_revision",
    "run",
    "verify",
]

# The module that defines each public name.
_HOME = {
    **dict.fromkeys(("At", "Context", "Shard", "ShardResult", "Stage", "Trained"), "builders.core.stage"),
    "Card": "builders.cards.card",
    "Manifest": "builders.store.manifest",
    "Pipeline": "builders.core.pipeline",
    "Revision": "builders.store.revision",
    "SamplingSettings": "builders.engines",
    "Store": "builders.store.store",
    "column": "builders.store.columns",
    "diff": "builders.inspect.diff",
    "lineage": "builders.inspect.lineage",
    "load_engine": "builders.engines",
    "open_revision": "builders.hub.refs",
    "run": "builders.core.run",
    "verify": "builders.inspect.verify",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562).

    Raises:
        AttributeError: for a name that is not public.
    """
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
