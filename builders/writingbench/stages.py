"""The dataset stages of WritingBench as plain data; its model stages and its graph are in training/writingbench."""

from collections.abc import Sequence
from functools import partial

from builders.cards.card import Card
from builders.core.ready import engine_ready
from builders.core.replies import replies_depend_on
from builders.core.stage import Asks, At, Stage
from builders.rubrics.check import check_criteria_rows, check_ratings
from builders.rubrics.columns import RATINGS_COLUMNS
from builders.writingbench import (
    benchmark,
    check,
    columns,
    criteria,
    critique,
    rate,
    refine,
    request,
    respond,
    roles,
    select,
)
from builders.writingbench import taxonomy as taxonomy_
from builders.writingbench.card import recipe
from builders.writingbench.settings import WritingBenchSettings


def _card(
    name: str, tags: Sequence[str], *, annotated: bool = False, written: bool = False, read: str = "rows read"
) -> Card:
    """Return a stage's part of its card."""
    template = f"writingbench/{name}.md.jinja"
    return Card(template, tags=tags, annotated=annotated, written=written, read=read, recipe=recipe)


def queries_from(config: WritingBenchSettings, round_: int) -> dict[str, At]:
    """The benchmark in the place of the stage `criteria`, where there is one."""
    return {} if config.benchmark.data is None else {"criteria": At("benchmark")}


TAXONOMY = Stage(
    name="taxonomy",
    kind="dataset",
    suffix="taxonomy",
    version=1,
    also=taxonomy_.source_stage,
    sections=("taxonomy",),
    per_round=False,
    source=taxonomy_.source_of,
    columns=columns.TAXONOMY_COLUMNS,
    plan=taxonomy_.plan,
    build=taxonomy_.build,
    card=_card("taxonomy", ("taxonomy",)),
)
REQUEST = Stage(
    name="request",
    kind="dataset",
    suffix="requests",
    version=1,
    parents=("taxonomy",),
    roles={"teacher": roles.teacher},
    sections=("request", "engines.teacher", "random_seed", "threads"),
    per_round=False,
    prompts=request.prompts,
    ready=partial(engine_ready, role="teacher"),
    bytes_depend_on=partial(replies_depend_on, role="teacher"),
    columns=columns.REQUEST_COLUMNS,
    plan=request.plan,
    build=Asks("teacher", request.build),
    card=_card("request", ("writing-prompts", "synthetic"), written=True, read="subdomains read"),
)
REFINE = Stage(
    name="refine",
    kind="dataset",
    suffix="queries",
    version=1,
    parents=("request",),
    roles={"teacher": roles.teacher},
    sections=("refine", "engines.teacher", "random_seed", "threads"),
    per_round=False,
    source=refine.source_of,
    prompts=refine.prompts,
    ready=partial(engine_ready, role="teacher"),
    bytes_depend_on=partial(replies_depend_on, role="teacher"),
    columns=columns.QUERIES_COLUMNS,
    plan=refine.plan,
    build=refine.build,
    card=_card("refine", ("writing-prompts", "synthetic"), written=True, read="requests read"),
)
CRITERIA = Stage(
    name="criteria",
    kind="dataset",
    suffix="criteria",
    version=1,
    parents=("refine",),
    roles={"teacher": roles.teacher},
    sections=("criteria", "engines.teacher", "random_seed", "threads"),
    per_round=False,
    prompts=criteria.prompts,
    ready=partial(engine_ready, role="teacher"),
    bytes_depend_on=partial(replies_depend_on, role="teacher"),
    columns=columns.CRITERIA_COLUMNS,
    check=check_criteria_rows,
    plan=criteria.plan,
    build=criteria.BUILD,
    card=_card("criteria", ("rubrics", "synthetic"), annotated=True, read="queries read"),
)
BENCHMARK = Stage(
    name="benchmark",
    kind="dataset",
    suffix="benchmark",
    version=1,
    sections=("benchmark",),
    per_round=False,
    source=benchmark.source_of,
    columns=columns.BENCHMARK_COLUMNS,
    plan=benchmark.plan,
    build=benchmark.build,
    card=_card("benchmark", ("benchmark", "rubrics")),
)
RESPOND = Stage(
    name="respond",
    kind="dataset",
    suffix="responses",
    version=1,
    parents=("criteria",),
    also=queries_from,
    instead={"criteria": BENCHMARK.name},
    roles={"policy": roles.policies},
    sections=("respond", "engines.policy", "random_seed", "threads"),
    per_round=False,
    ready=partial(engine_ready, role="policy"),
    bytes_depend_on=partial(replies_depend_on, role="policy"),
    columns=columns.RESPONSES_COLUMNS,
    plan=respond.plan,
    build=respond.build,
    summaries=("num_tokens",),
    card=_card("respond", ("synthetic",), written=True, read="queries read"),
)
RATE = Stage(
    name="rate",
    kind="dataset",
    suffix="ratings",
    version=1,
    parents=("respond", "criteria"),
    also=queries_from,
    reads=rate.READ,
    roles={"judge": roles.judge},
    sections=("rate", "engines.judge", "random_seed", "threads"),
    per_round=False,
    prompts=rate.prompts,
    ready=partial(engine_ready, role="judge"),
    bytes_depend_on=partial(replies_depend_on, role="judge"),
    columns=RATINGS_COLUMNS,
    check=check_ratings,
    plan=rate.plan,
    build=rate.BUILD,
    summaries=("score", "attempts"),
    card=_card("rate", ("ratings", "llm-as-a-judge"), annotated=True, read="responses read"),
)
SELECT = Stage(
    name="select",
    kind="dataset",
    suffix="sft",
    version=1,
    parents=("rate", "respond"),
    sections=("select",),
    per_round=False,
    columns=columns.SELECT_COLUMNS,
    check=check.check_selection,
    plan=select.plan,
    build=select.build,
    summaries=("score",),
    card=_card("select", ("synthetic", "sft", "trl"), annotated=True, read="responses read"),
)
CRITIQUE = Stage(
    name="critique",
    kind="dataset",
    suffix="critic",
    version=1,
    parents=("rate", "respond", "criteria"),
    also=queries_from,
    sections=("critique", "rate.prompt", "random_seed"),
    per_round=False,
    columns=columns.CRITIC_COLUMNS,
    check=check.check_critic_rows,
    plan=critique.plan,
    build=critique.build,
    summaries=("score",),
    card=_card("critique", ("llm-as-a-judge", "sft", "trl"), annotated=True, read="ratings read"),
)
