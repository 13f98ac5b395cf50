"""Which settings count as changed between a revision and a configuration."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets_factory import add_dataset, scores_frame
from real_configs import config_on

from builders.core.nodes import Node
from builders.core.plan import Graph
from builders.store.store import Store
from training.grace_kto.pipeline import GRACE_KTO

THINKING = "engines.policy.chat_template_kwargs"


@pytest.mark.parametrize(
    ("before", "overrides", "expected"),
    [
        ({"enable_thinking": False, "effort": "low"}, [f"{THINKING}={{enable_thinking: false, effort: low}}"], []),
        # A variable less is a change too; a setting that only the older revision knows is none.
        ({"enable_thinking": False, "effort": "low"}, [f"{THINKING}.enable_thinking=false"], [THINKING]),
        ({"enable_thinking": False}, [], [THINKING]),
        ({}, [f"{THINKING}.enable_thinking=false"], [THINKING]),
        ({}, [], []),
        ({}, ["sft.batch_size=5"], ["sft.batch_size"]),
    ],
)
def test_variables_of_a_chat_template_are_compared_as_a_whole(
    tmp_path: Path, before: dict[str, Any], overrides: list[str], expected: list[str]
) -> None:
    config = config_on(tmp_path, *overrides, policy=tmp_path)
    store = Store(Path(config.store))
    made = add_dataset(store, "score", scores_frame())
    assert made.manifest is not None
    configuration = {"sft": {"batch_size": 24, "gone": 1}, THINKING: before}
    version = GRACE_KTO.stage("sft").version
    manifest = made.manifest.model_copy(update={"stage_version": version, "configuration": configuration})
    graph = Graph(GRACE_KTO, config, store, [], {})
    found = graph.changed_settings(replace(made, manifest=manifest), Node("sft", 0))
    assert [name for name in found if name.startswith((THINKING, "sft.batch_size", "sft.gone"))] == expected
