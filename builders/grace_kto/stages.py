"""The dataset stages of GRACE-KTO as plain data; its model stages and its graph are in training/grace_kto."""

from collections.abc import Sequence
from functools import partial

from builders.cards.card import Card
from builders.core.ready import engine_ready
from builders.core.replies import replies_depend_on
from builders.core.stage import Asks, Stage
from builders.grace_kto import (
    calibrate,
    columns,
    criteria,
    format,
    generate,
    parts,
    rate,
    ready,
    roles,
    sample,
    score,
    seed,
)
from builders.grace_kto.card import facts, recipe
from builders.grace_kto.check import check_calibration, check_documents
from builders.grace_kto.settings import GraceKTOSettings
from builders.rubrics.check import check_criteria_rows, check_ratings
from builders.rubrics.columns import RATINGS_COLUMNS


def scoring_depends_on(config: GraceKTOSettings) -> Sequence[str]:
    """Return what the last digits of the scores depend on beyond the fingerprint.

    The composition of a batch decides its padding, and so the order of floating-point sums.
    """
    found = ["kind of processor", "score.tokens_per_batch", "score.texts_per_batch"]
    if config.score.dtype == "auto":
        found.append("score.device")
    return [*found, "composition of vLLM's batches"] if config.score.engine == "vllm" else found


SEED = Stage(
    name="seed",
    kind="dataset",
    suffix="seed",
    version=2,
    also=seed.source_stage,
    sections=("seed",),
    per_round=False,  # all rounds draw from the same seeds
    source=seed.source_of,
    columns=columns.SEED_COLUMNS,
    plan=seed.plan,
    build=seed.build,
    card=Card("grace_kto/seed.md.jinja", tags=("writing-prompts",), facts=facts, recipe=recipe),
)
FORMAT = Stage(
    name="format",
    kind="dataset",
    suffix="sft",
    version=1,
    parents=("seed",),
    roles={"teacher": roles.teacher},
    sections=("format", "engines.teacher", "sample.system_prompt", "random_seed", "threads"),
    per_round=False,
    prompts=format.prompts,
    ready=ready.format_ready,
    bytes_depend_on=partial(replies_depend_on, role="teacher"),
    check=check_documents,
    columns=columns.FORMAT_COLUMNS,
    plan=format.plan,
    build=format.build,
    summaries=("attempts",),
    card=Card(
        "grace_kto/format.md.jinja",
        tags=("synthetic", "sft", "trl"),
        annotated=True,
        read="seeds read",
        facts=facts,
        recipe=recipe,
    ),
)
GENERATE = Stage(
    name="generate",
    kind="dataset",
    suffix="queries",
    version=parts.VERSION,
    parents=("seed",),
    also=generate.earlier_rounds,
    roles={"policy": roles.policy},
    sections=parts.SECTIONS,
    prompts=generate.prompts,
    ready=ready.generate_ready,
    bytes_depend_on=partial(replies_depend_on, role="policy"),
    columns=columns.QUERIES_COLUMNS,
    plan=generate.plan,
    build=generate.build,
    scratch=generate.scratch,
    card=Card(
        "grace_kto/generate.md.jinja",
        tags=("writing-prompts", "synthetic"),
        written=True,
        read="prompts sent",
        facts=facts,
        recipe=recipe,
    ),
)
SAMPLE = Stage(
    name="sample",
    kind="dataset",
    suffix="groups",
    version=2,
    parents=("generate",),
    roles={"policy": roles.policy},
    sections=("sample", "engines.policy", "random_seed", "threads"),
    prompts=sample.prompts,
    ready=ready.sample_ready,
    bytes_depend_on=partial(replies_depend_on, role="policy"),
    columns=columns.GROUPS_COLUMNS,
    plan=sample.plan,
    build=Asks("policy", sample.build),
    summaries=("num_tokens", "logprob"),
    card=Card(
        "grace_kto/sample.md.jinja",
        tags=("synthetic",),
        written=True,
        read="queries read",
        facts=facts,
        recipe=recipe,
        example="matched",
    ),
)
# Built where score.rubric is true.
CRITERIA = Stage(
    name="criteria",
    kind="dataset",
    suffix="criteria",
    version=1,
    parents=("sample",),
    roles={"criteria": roles.criteria},
    sections=("criteria", "engines.criteria", "random_seed", "threads"),
    prompts=criteria.prompts,
    ready=partial(engine_ready, role="criteria"),
    bytes_depend_on=partial(replies_depend_on, role="criteria"),
    columns=columns.CRITERIA_COLUMNS,
    check=check_criteria_rows,
    plan=criteria.plan,
    build=criteria.BUILD,
    card=Card(
        "grace_kto/criteria.md.jinja",
        tags=("rubrics", "synthetic"),
        annotated=True,
        read="queries read",
        recipe=recipe,
    ),
)
RATE = Stage(
    name="rate",
    kind="dataset",
    suffix="ratings",
    version=1,
    parents=("criteria", "sample"),
    roles={"judge": roles.judge},
    sections=("rate", "engines.judge", "random_seed", "threads"),
    prompts=rate.prompts,
    ready=partial(engine_ready, role="judge"),
    bytes_depend_on=partial(replies_depend_on, role="judge"),
    columns=RATINGS_COLUMNS,
    check=check_ratings,
    plan=rate.plan,
    build=rate.BUILD,
    summaries=("score",),
    card=Card(
        "grace_kto/rate.md.jinja",
        tags=("ratings", "llm-as-a-judge"),
        annotated=True,
        read="responses read",
        recipe=recipe,
    ),
)
SCORE = Stage(
    name="score",
    kind="dataset",
    suffix="scores",
    version=2,
    parents=("sample",),
    also=score.ratings,
    roles={
        "tokenizer": roles.tokenizer,
        "general": roles.general,
        "domain": roles.domain,
        "relevance": roles.relevance,
    },
    sections=("score", "threads"),
    prompts=score.prompts,
    ready=ready.score_ready,
    bytes_depend_on=scoring_depends_on,
    columns=columns.SCORES_COLUMNS,
    plan=score.plan,
    build=score.build,
    summaries=columns.METRICS,
    card=Card(
        "grace_kto/score.md.jinja",
        tags=("synthetic", "preference-data"),
        annotated=True,
        facts=facts,
        recipe=recipe,
        example="matched",
    ),
)
CALIBRATE = Stage(
    name="calibrate",
    kind="dataset",
    suffix="weights",
    version=3,
    parents=("score",),
    sections=("calibrate",),
    prompts=calibrate.prompts,
    check=check_calibration,
    columns=columns.WEIGHTS_COLUMNS,
    plan=calibrate.plan,
    build=calibrate.build,
    summaries=(*columns.METRICS, "rank_sum", "reward", "weight"),
    card=Card(
        "grace_kto/calibrate.md.jinja",
        tags=("synthetic", "preference-data", "kto", "trl"),
        annotated=True,
        facts=facts,
        recipe=recipe,
        example="matched",
    ),
)
