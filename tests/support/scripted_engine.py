"""An engine whose replies are given, and the context in which the runner hands it to stage `generate`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from real_configs import config_on

from builders.core.models import ModelFinder
from builders.core.nodes import Node
from builders.core.plan import Graph
from builders.core.stage import Context
from builders.engines import Completion, Message, More, SamplingSettings, one_by_one
from builders.grace_kto.settings import GraceKTOSettings
from builders.store.store import Store
from training.grace_kto.pipeline import GRACE_KTO
from training.pipelines import build


@dataclass
class Script:
    """An engine whose replies are given, by their number or by the prompt's seed: they are what the code under test
    reads."""

    replies: Sequence[str] | Callable[[int], str]
    context_window: int = 4096
    tokenizer: Any = None
    asked: list[tuple[str, int]] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    settings: SamplingSettings | None = None  # of the last call

    def generate(
        self, prompts: Sequence[Sequence[Message]], seeds: Sequence[int], settings: SamplingSettings
    ) -> list[Completion]:
        numbers = range(len(self.asked), len(self.asked) + len(prompts))
        self.asked += [(prompt[0]["content"], seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        self.calls.append(len(prompts))
        self.settings = settings
        if isinstance(self.replies, Sequence):
            texts = [self.replies[number % len(self.replies)] for number in numbers]
        else:
            texts = [self.replies(seed) for seed in seeds]
        return [Completion(text, "stop", 1) for text in texts]

    def stream(self, more: More) -> Iterator[tuple[Any, list[Completion]]]:
        return one_by_one(self, more)

    def close(self) -> None:
        self.replies = ()


def context_of(
    tmp_path: Path, policy: Path, replies: Sequence[str] | Callable[[int], str], *overrides: str, round_: int = 1
) -> tuple[Context[GraceKTOSettings], Script]:
    """What the runner hands to the stage in a round, with an engine whose replies are given."""
    config = config_on(tmp_path, "generate.queries=4", "generate.shard_queries=2", *overrides, policy=policy)
    store = Store(Path(config.store))
    build(config, "seed")
    node = Node("generate", round_)
    graph = Graph(GRACE_KTO, config, store, [node], {})
    above = {found: graph.existing(found) for found in graph.needs[node].nodes()}
    made = {found: revision for found, revision in above.items() if revision is not None}
    inputs = graph.inputs(node, made, ModelFinder(store))
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    context = Context(config, store, round_, inputs.parents, inputs.models, work)
    engine = Script(replies)
    context.loaded.get(inputs.models["policy"], ("engine", config.engines.policy), lambda: engine)
    return context, engine
