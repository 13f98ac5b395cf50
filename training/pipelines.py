"""Pipelines: each a literal tuple of stages. GRACE-KTO is the first."""

from builders.core.prompting import prompt_text, system_prompts
from builders.core.stage import Stage
from builders.grace_kto import calibrate, generate, sample, score, seed
from builders.grace_kto import columns as schema
from scorers.errors import UserError

GRACE_KTO = (
    Stage(
        name="seed",
        dataset="seed",
        version=seed.VERSION,
        parent=None,
        columns=schema.SEED_COLUMNS,
        sections=("seed",),
        plan=seed.plan,
        build=seed.build,
        source=seed.source_identity,
        per_round=False,
    ),
    Stage(
        name="generate",
        dataset=generate.DATASET,
        version=generate.VERSION,
        parent="seed",
        columns=schema.QUERIES_COLUMNS,
        sections=("generate", "engine"),
        plan=generate.plan,
        build=generate.build,
        roles=("policy",),
        prompts=lambda config, inputs: {config.generate.prompt: prompt_text(config.generate.prompt)},
        extra_inputs=generate.earlier_rounds,
        sequential=True,
    ),
    Stage(
        name="sample",
        dataset="groups",
        version=sample.VERSION,
        parent="generate",
        columns=schema.GROUPS_COLUMNS,
        sections=("sample", "engine"),
        plan=sample.plan,
        build=sample.build,
        roles=("policy",),
        prompts=lambda config, inputs: system_prompts(config, None),
        summaries=("num_tokens", "logprob"),
    ),
    Stage(
        name="score",
        dataset="scores",
        version=score.VERSION,
        parent="sample",
        columns=schema.SCORES_COLUMNS,
        sections=("score",),
        plan=score.plan,
        build=score.build,
        roles=("tokenizer", "general", "domain", "relevance"),
        prompts=lambda config, inputs: system_prompts(config, inputs["sample"].manifest),
        summaries=schema.METRICS,
    ),
    Stage(
        name="calibrate",
        dataset="weights",
        version=calibrate.VERSION,
        parent="score",
        columns=schema.WEIGHTS_COLUMNS,
        sections=("calibrate",),
        plan=calibrate.plan,
        build=calibrate.build,
        prompts=lambda config, inputs: system_prompts(config, inputs["score"].manifest),
        summaries=(*schema.METRICS, "rank_sum", "reward", "weight"),
    ),
)

STAGE_NAMES = tuple(stage.name for stage in GRACE_KTO)


def stage_named(name: str) -> Stage:
    """A stage by name.

    Raises:
        UserError: for an unknown name.
    """
    for stage in GRACE_KTO:
        if stage.name == name:
            return stage
    raise UserError(f"--stage {name}: unknown; stages: {', '.join(STAGE_NAMES)}")


def stage_of_dataset(columns: set[str], below: Stage) -> Stage | None:
    """What somebody else's dataset stands for: the deepest stage above `below` that added one of its columns.

    None where it has no column of any of them.
    """
    above = GRACE_KTO[: STAGE_NAMES.index(below.name)]
    for index in range(len(above) - 1, -1, -1):
        inherited = {c.name for c in above[index - 1].columns} if index else set()
        if ({c.name for c in above[index].columns} - inherited) & columns:
            return above[index]
    return None
