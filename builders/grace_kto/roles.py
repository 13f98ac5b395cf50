"""Which model fills each role of GRACE-KTO, from the configuration and the round."""

from builders.core.stage import At
from builders.grace_kto.settings import GraceKTOSettings
from scorers.errors import UserError


def base(config: GraceKTOSettings, round_: int) -> str:
    """The model that supervised fine-tuning starts from."""
    return config.models.base


def teacher(config: GraceKTOSettings, round_: int) -> str:
    """The model that writes summary and outline of plain documents.

    Raises:
        UserError: none is set.
    """
    if config.models.teacher is None:
        raise UserError(
            "stage format: models.teacher is null, and it asks that model for the summaries and outlines of plain "
            "documents; set it to an instruct model, or set sft.untagged=wrap, which needs none"
        )
    return config.models.teacher


def criteria(config: GraceKTOSettings, round_: int) -> str:
    """The model that writes each query's criteria.

    Raises:
        UserError: none is set.
    """
    return _rubrics(config, "criteria")


def judge(config: GraceKTOSettings, round_: int) -> str:
    """The model that rates documents by those criteria.

    Raises:
        UserError: none is set.
    """
    return _rubrics(config, "judge")


def grader(config: GraceKTOSettings, round_: int) -> str:
    """The model that grades answers to held-out queries.

    Raises:
        UserError: none is set.
    """
    if config.models.judge is None:
        raise UserError(
            "stage evaluations: models.judge is null, and it grades the answers; set it, or give `grace evaluate "
            "--judge ENGINE:MODEL`"
        )
    return config.models.judge


def _rubrics(config: GraceKTOSettings, role: str) -> str:
    """Return a model that `score.rubric` needs.

    Raises:
        UserError: it is not set; the message names all that are not.
    """
    does = {"criteria": "writes each query's criteria", "judge": "rates documents by them"}
    if missing := [name for name in does if getattr(config.models, name) is None]:
        said = " and ".join(f"models.{name}, the model that {does[name]}" for name in missing)
        raise UserError(
            f"score.rubric needs {said}; set {'both' if len(missing) > 1 else 'it'}, or score.rubric to false"
        )
    return str(getattr(config.models, role))


def first_policy(config: GraceKTOSettings, round_: int) -> str:
    """The policy of the first round: what the reference and the adapters of training start from."""
    return config.models.policy


def policy(config: GraceKTOSettings, round_: int) -> str | At:
    """The policy that samples a round: the first one, then the result of training on the round before (§3.5)."""
    return config.models.policy if round_ == 1 else At("policy", round_ - 1)


def evaluated(config: GraceKTOSettings, round_: int) -> str:
    """The policy that answers held-out queries.

    Raises:
        UserError: none is set.
    """
    if config.models.evaluated is None:
        raise UserError(
            "stage answers: models.evaluated is null, and its answers are asked for; `grace evaluate` sets it for each "
            "policy that it compares, or give it the name of one"
        )
    return config.models.evaluated


def tokenizer(config: GraceKTOSettings, round_: int) -> str:
    """The model whose tokenizer counts L and E.

    Training never changes the tokenizer, so that of the first policy serves all rounds; `sft` has its base model's. A
    server does not tell its model's, so that of the base model has to do.
    """
    told = config.models.policy != "sft" and config.engines.policy.kind != "openai"
    return config.models.policy if told else config.models.base


def general(config: GraceKTOSettings, round_: int) -> str:
    """The general language model M_G (eq. 3)."""
    return config.models.general


def domain(config: GraceKTOSettings, round_: int) -> str:
    """The domain language model M_D (eq. 3)."""
    return config.models.domain


def relevance(config: GraceKTOSettings, round_: int) -> str:
    """BGE-M3, which gives the similarities (eq. 4)."""
    return config.models.relevance
