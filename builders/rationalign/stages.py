"""The dataset stages of RationAlign as plain data; its model stages and its graph are in training/rationalign."""

from collections.abc import Sequence
from functools import partial

from builders.cards.card import Card
from builders.core.ready import engine_ready
from builders.core.replies import replies_depend_on
from builders.core.stage import Stage
from builders.rationalign import check, columns, contest, explain, pairs, prefer, ready, roles, sample
from builders.rationalign.card import recipe


def _card(
    name: str, tags: Sequence[str], *, annotated: bool = False, written: bool = False, read: str = "rows read"
) -> Card:
    """Return a stage's part of its card."""
    template = f"rationalign/{name}.md.jinja"
    return Card(template, tags=tags, annotated=annotated, written=written, read=read, recipe=recipe)


PAIRS = Stage(
    name="pairs",
    kind="dataset",
    suffix="pairs",
    version=1,
    also=pairs.parents,
    sections=("pairs", "tasks", "random_seed"),
    per_round=False,
    prompts=pairs.prompts,
    source=pairs.labelled_source,
    ready=ready.pairs_ready,
    columns=columns.PAIRS_COLUMNS,
    check=check.check_pairs,
    plan=pairs.plan,
    build=pairs.build,
    card=_card("pairs", ("text-editing",)),
)
UNLABELLED = Stage(
    name="unlabelled",
    kind="dataset",
    suffix="unlabelled",
    version=1,
    parents=("pairs",),
    also=pairs.unlabelled_parents,
    sections=("unlabelled", "pairs.sources", "tasks", "random_seed"),
    per_round=False,
    source=pairs.unlabelled_source,
    columns=columns.UNLABELLED_COLUMNS,
    plan=pairs.plan_unlabelled,
    build=pairs.build,
    card=_card("unlabelled", ("text-editing",)),
)
EXPLAIN = Stage(
    name="explain",
    kind="dataset",
    suffix="rationales",
    version=1,
    parents=("pairs",),
    roles={"teacher": roles.teacher},
    sections=("explain", "tasks", "engines.teacher", "random_seed", "threads"),
    per_round=False,
    prompts=explain.prompts,
    ready=ready.teacher_ready,
    bytes_depend_on=partial(replies_depend_on, role="teacher"),
    columns=columns.RATIONALES_COLUMNS,
    check=check.check_rationales,
    plan=explain.plan,
    build=explain.BUILD,
    card=_card("explain", ("text-editing", "rationales", "synthetic"), annotated=True, read="pairs read"),
)
CONTEST = Stage(
    name="contest",
    kind="dataset",
    suffix="contests",
    version=1,
    parents=("pairs",),
    roles={"policy": roles.folds},
    sections=("contest", "tasks", "pairs.folds", "engines.policy", "random_seed", "threads"),
    per_round=False,
    prompts=contest.prompts,
    ready=ready.contest_ready,
    bytes_depend_on=partial(replies_depend_on, role="policy"),
    columns=columns.CONTESTS_COLUMNS,
    check=check.check_contests,
    plan=contest.plan,
    build=contest.build,
    summaries=("metric_winner", "metric_loser"),
    card=_card("contest", ("preferences", "reward-model", "trl"), written=True, read="pairs read"),
)
SAMPLE = Stage(
    name="sample",
    kind="dataset",
    suffix="candidates",
    version=1,
    parents=("unlabelled",),
    roles={"policy": roles.policy},
    sections=("sample", "sft.order", "tasks", "engines.policy", "random_seed", "threads"),
    per_round=False,
    prompts=sample.prompts,
    ready=partial(engine_ready, role="policy"),
    bytes_depend_on=partial(replies_depend_on, role="policy"),
    columns=columns.CANDIDATES_COLUMNS,
    check=check.check_candidates,
    plan=sample.plan,
    build=sample.BUILD,
    summaries=("num_tokens",),
    card=_card("sample", ("synthetic",), written=True, read="texts read"),
)
PREFER = Stage(
    name="prefer",
    kind="dataset",
    suffix="preferences",
    version=1,
    parents=("sample",),
    roles={"reward": roles.scorer},
    sections=("prefer", "contest.list_edits", "sft.order", "tasks", "random_seed", "threads"),
    per_round=False,
    prompts=prefer.prompts,
    ready=ready.prefer_ready,
    bytes_depend_on=prefer.bytes_depend_on,
    columns=columns.PREFERENCES_COLUMNS,
    check=check.check_preferences,
    plan=prefer.plan,
    build=prefer.build,
    summaries=("reward_chosen", "reward_rejected"),
    card=_card("prefer", ("preferences", "dpo", "trl"), annotated=True, written=True, read="texts read"),
)
