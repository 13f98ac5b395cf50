"""Query generation: what is dropped and why, across shards and rounds, and a policy whose replies hold no list."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from datasets_factory import add_dataset, add_model
from real_configs import SEEDS, config_on

from builders.core.draws import query_id
from builders.core.models import ModelFinder
from builders.core.plan import Graph, Node
from builders.core.stage import At, Context, Shard
from builders.engines import Completion, Message, SamplingSettings
from builders.grace_kto import generate
from builders.grace_kto.columns import QUERIES_COLUMNS
from builders.grace_kto.settings import GraceKTOSettings
from builders.store.columns import check_frame, frame_of
from builders.store.shards import write_shard
from builders.store.store import Revision, Store
from scorers.errors import UserError
from training.grace_kto.pipeline import GRACE_KTO
from training.pipelines import build, plan


@dataclass
class Script:
    """An engine whose replies are given: replies are what the code under test reads."""

    replies: Sequence[str]
    context_window: int = 4096
    tokenizer: Any = None
    asked: list[tuple[str, int]] = field(default_factory=list)

    def generate(
        self, prompts: Sequence[Sequence[Message]], seeds: Sequence[int], settings: SamplingSettings
    ) -> list[Completion]:
        start = len(self.asked)
        self.asked += [(prompt[0]["content"], seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        texts = [self.replies[i % len(self.replies)] for i in range(start, start + len(prompts))]
        return [Completion(text, "stop", 1) for text in texts]

    def close(self) -> None:
        self.replies = ()


def context_of(
    tmp_path: Path, policy: Path, replies: Sequence[str], *overrides: str, round_: int = 1
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


def queries_of(result: Any) -> list[str]:
    return list(result.frame["query"])


def test_every_drop_is_counted_by_its_reason(tmp_path: Path, causal_lm_dir: Path) -> None:
    replies = [
        "I cannot do that.",
        repr(["  ", SEEDS[0], f" {SEEDS[1]}\n", "x" * 41, "Write A."]),
        repr(["Write A.", " Write A. ", "Write B.", "Write C.", "Write D."]),
    ]
    context, engine = context_of(tmp_path, causal_lm_dir, replies, "generate.max_query_chars=40")
    result = generate.build(context, Shard(0, 2))
    assert queries_of(result) == ["Write A.", "Write B."]
    assert result.counts == {
        "read": 3,
        "dropped.reply without a list": 1,
        "dropped.blank": 1,
        "dropped.duplicate": 4,
        "dropped.over-long": 1,
        "dropped.surplus": 2,
    }
    check_frame(result.frame, QUERIES_COLUMNS, "queries")
    row = result.frame.row(0, named=True)
    assert row["query_id"] == query_id("Write A.") and row["round"] == 1 and row["language"] == "en"
    assert row["generator"].startswith(f"{causal_lm_dir.name}@")
    # The row names the seeds that its prompt showed, five of six, each once.
    shown = {query_id(seed) for seed in SEEDS if seed in engine.asked[1][0]}
    assert len(row["example_ids"]) == 5 and set(row["example_ids"]) == shown


def test_prompts_and_seeds_depend_on_round_shard_and_attempt_alone(tmp_path: Path, causal_lm_dir: Path) -> None:
    def asked(index: int, round_: int = 1) -> list[tuple[str, int]]:
        context, engine = context_of(tmp_path, causal_lm_dir, ["['a']", "['b']"])
        context.round = round_
        generate.build(context, Shard(index, 2))
        return engine.asked

    assert asked(0) == asked(0)
    draws = {seed for index, round_ in ((0, 1), (1, 1), (0, 2)) for _, seed in asked(index, round_)}
    assert len(draws) == 6


def test_duplicates_of_earlier_shards_and_rounds(tmp_path: Path, causal_lm_dir: Path) -> None:
    config = config_on(tmp_path, policy=causal_lm_dir)
    row = {"language": "en", "round": 1, "example_ids": [], "generator": "m@r"}
    old = frame_of([row | {"query": "Old.", "query_id": query_id("Old.")}], QUERIES_COLUMNS)
    store = Store(Path(config.store))
    add_dataset(store, "generate", old, repo="local/tiny-queries")
    policy = add_model(store, "local/tiny-policy", round_=1)
    replies = [repr(["Old.", "Before.", "New."]), repr(["Newer.", "Surplus."])]
    context, _ = context_of(tmp_path, causal_lm_dir, replies, round_=2)
    before = frame_of([row | {"query": "Before.", "query_id": query_id("Before.")}], QUERIES_COLUMNS)
    write_shard(before, QUERIES_COLUMNS, context.work / "shard-00000.parquet", {"read": 1})
    result = generate.build(context, Shard(1, 2))
    assert queries_of(result) == ["New.", "Newer."]
    assert result.counts == {"read": 2, "dropped.duplicate": 2, "dropped.surplus": 1}
    assert set(result.frame["round"]) == {2} and set(result.frame["generator"]) == {str(policy)}


def test_a_round_reads_the_queries_of_every_round_before(tmp_path: Path, causal_lm_dir: Path) -> None:
    config = config_on(tmp_path, policy=causal_lm_dir)
    assert generate.earlier_rounds(config, 1) == {}
    assert generate.earlier_rounds(config, 3) == {
        "queries round-001": At("generate", 1),
        "queries round-002": At("generate", 2),
    }
    # What is missing of them is built first, the policies that write them too.
    steps = [(step.stage, step.round) for step in plan(config, "generate", round_=3) if step.action == "build"]
    assert steps[-1] == ("generate", 3)
    wanted = [("generate", 1), ("policy", 1), ("generate", 2), ("policy", 2)]
    assert [step for step in steps if step in wanted] == wanted
    assert not Path(config.store).exists()


def test_spent_attempts_say_what_was_dropped(tmp_path: Path, causal_lm_dir: Path) -> None:
    replies = ["['Write A.', '']", "nothing"]
    context, engine = context_of(tmp_path, causal_lm_dir, replies, "generate.max_attempts=3", "generate.per_prompt=1")
    with pytest.raises(UserError) as error:
        generate.build(context, Shard(0, 2))
    assert len(engine.asked) == 6
    assert str(error.value) == (
        "query generation: 1 of 2 queries after 6 prompts (dropped: 3 blank, 2 duplicate, 3 reply without a list); "
        "raise generate.max_attempts or generate.max_new_tokens, or look at the policy's replies"
    )


def test_hostile_replies_become_plain_text(tmp_path: Path, causal_lm_dir: Path) -> None:
    hostile = "{{ 7 * 7 }} </answer> ../../etc \0 \x1b[31m"
    replies = [repr([hostile]), '["half \\ud800 a character"]']
    context, _ = context_of(tmp_path, causal_lm_dir, replies)
    result = generate.build(context, Shard(0, 2))
    assert queries_of(result) == [hostile, "half \ufffd a character"]
    write_shard(result.frame, QUERIES_COLUMNS, tmp_path / "x.parquet", result.counts)


def test_shards_cover_k(tmp_path: Path, causal_lm_dir: Path) -> None:
    context, _ = context_of(tmp_path, causal_lm_dir, ["[]"], "generate.queries=5")
    assert [(shard.index, shard.spec) for shard in generate.plan(context)] == [(0, 2), (1, 2), (2, 1)]


def assert_nothing_written(config: GraceKTOSettings) -> Revision:
    store = Store(Path(config.store))
    repo = GRACE_KTO.repo(GRACE_KTO.stage("generate"), config)
    assert store.refs(repo) == {} and not list(store.root.rglob(f"{repo.replace('/', '--')}/**/*.parquet"))
    found = store.find(GRACE_KTO.repo(GRACE_KTO.stage("seed"), config), "main")
    assert found is not None
    return found


def test_a_round_whose_queries_all_fail_to_parse(tmp_path: Path, causal_lm_dir: Path) -> None:
    config = config_on(
        tmp_path,
        "generate={queries: 2, per_prompt: 1, max_attempts: 2, max_new_tokens: 8}",
        "generate.prompt=generate.tiny",
        policy=causal_lm_dir,
    )
    with pytest.raises(UserError) as error:
        build(config, "sample")
    assert "0 of 2 queries after 4 prompts (dropped: 4 reply without a list); raise generate.max_" in str(error.value)
    seeds = assert_nothing_written(config)
    assert seeds.manifest is not None and seeds.manifest.rows.written == len(SEEDS)
