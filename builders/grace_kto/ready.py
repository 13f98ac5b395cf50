"""What the dataset stages of GRACE-KTO need, checked before anything is built: devices, packages, chat template."""

from typing import Any

from builders.core.machine import require_bfloat16, require_device, require_engine, require_package, require_vllm
from builders.core.models import LocalModel, on_disk, pick_device, require_policy
from builders.core.prompting import chat
from builders.core.ready import engine_ready
from builders.core.stage import FindModel
from builders.engines import Message
from builders.engines.vllm_perplexity import require_fixed_rope
from builders.grace_kto import roles
from builders.grace_kto.messages import system_prompts
from builders.grace_kto.settings import GraceKTOSettings
from builders.settings.context import ContextSettings
from builders.settings.engines import OpenAIEngineSettings
from scorers.context import stretch
from scorers.errors import UserError
from scorers.model_loading import HEADS
from scorers.perplexity import CONTEXT


def trial_prompts(config: GraceKTOSettings, *, system: bool) -> list[list[Message]]:
    """Return prompts of the kinds that a policy is given: without a system prompt, and under each one if so asked."""
    texts = system_prompts(config, None).values() if system else ()
    return [chat("Write."), *(chat("Write.", system=text) for text in texts)]


def generate_ready(config: GraceKTOSettings, find: FindModel) -> None:
    """Check what asking the policy for queries needs.

    Raises:
        UserError: as `require_engine`, `require_guidable` and `require_policy`.
    """
    require_guidable("generate", "policy", config)
    _policy_ready(config, find, system=False)


def sample_ready(config: GraceKTOSettings, find: FindModel) -> None:
    """Check what sampling responses needs.

    Raises:
        UserError: as `require_engine` and `require_policy`.
    """
    _policy_ready(config, find, system=True)


def format_ready(config: GraceKTOSettings, find: FindModel) -> None:
    """Check what asking the teacher needs.

    Raises:
        UserError: as `require_guidable` and `engine_ready`.
    """
    require_guidable("format", "teacher", config)
    engine_ready(config, find, "teacher")


def require_guidable(section: str, role: str, config: GraceKTOSettings) -> None:
    """Check that a stage's engine can hold replies to their form where they are to be.

    Args:
        section: the stage's section.
        role: whose engine it asks.
        config: the configuration.

    Raises:
        UserError: it cannot.
    """
    if getattr(config, section).guided and getattr(config.engines, role).kind == "transformers":
        raise UserError(
            f"{section}.guided is true, and the engine transformers cannot hold replies to a form; set "
            f"engines.{role}.kind to vllm, or to openai for a server of vLLM's, or {section}.guided to false"
        )


def _policy_ready(config: GraceKTOSettings, find: FindModel, *, system: bool) -> None:
    """Check engine and model; of a policy that is still to be made, the model that it is made from."""
    engine = config.engines.policy
    require_engine("engines.policy", engine)
    if isinstance(engine, OpenAIEngineSettings):
        return  # what its model takes, the server alone knows
    model = find(roles.tokenizer(config, 1))
    if model is not None:
        require_policy(engine, on_disk(model, "engines.policy"), trial_prompts(config, system=system))


def score_ready(config: GraceKTOSettings, find: FindModel) -> None:
    """Check what scoring needs.

    Raises:
        UserError: the device is not there, or does not compute in `score.dtype`; FlagEmbedding is not installed; a
            model is one that a server runs; a language model does not fit `score.context` or `score.engine`; the
            relevance model lacks a head; ratings are to count, and there are to be none.
    """
    coefficient = config.calibrate.coefficients.rubric
    if coefficient and not config.score.rubric:
        raise UserError(
            f"calibrate.coefficients.rubric is {coefficient:g}, and score.rubric is false: there would be no ratings "
            "to count; set score.rubric to true, or the coefficient to 0"
        )
    perplexity_ready(config)
    require_package(
        "models.relevance", "FlagEmbedding", "install the extra that brings it: pip install 'grace-data[score]'"
    )
    names = {role: getattr(config.models, role) for role in ("general", "domain", "relevance", "base")}
    found = {role: model for role, name in names.items() if (model := find(name)) is not None}
    models = {role: on_disk(model, f"models.{role}") for role, model in found.items()}
    for role in ("general", "domain"):
        if role in models:
            require_context(models[role], config.score.context, CONTEXT)
            if config.score.engine == "vllm":
                require_fixed_rope(str(models[role].path), _config_of(models[role]))
    folder = models["relevance"].path if "relevance" in models else None
    missing = [] if folder is None else [head for head in HEADS if not (folder / head).is_file()]
    if missing:
        raise UserError(
            f"models.relevance {config.models.relevance} lacks {' and '.join(missing)}; BGE-M3 needs both heads "
            f"({', '.join(HEADS)}): give a complete folder or the id BAAI/bge-m3"
        )


def perplexity_ready(config: GraceKTOSettings) -> None:
    """Check what reading documents with a language model needs of the machine.

    Raises:
        UserError: the device is not there, or does not compute in `score.dtype`; vLLM is asked for, and is not
            installed, built for another device, or to run on another GPU than the first.
    """
    settings = config.score
    require_device("score.device", settings.device)
    device = pick_device(settings.device)
    if settings.dtype == "float16" and device == "cpu":
        raise UserError(
            "score.dtype float16 needs a GPU, and the device is cpu; set score.dtype to float32 or bfloat16"
        )
    if settings.engine == "vllm":
        if ":" in device:
            raise UserError(
                f"score.device is {device!r}, and score.engine vllm takes the first GPU that it sees; set score.device "
                "to cuda and CUDA_VISIBLE_DEVICES to the number, or score.engine to transformers"
            )
        require_vllm("score.engine", device)
        require_bfloat16("score.dtype", settings.dtype, device)


def require_context(model: LocalModel, context: ContextSettings, setting: str) -> None:
    """Check that a model can be brought to a window, by its configuration alone.

    Args:
        model: the model.
        context: window and method.
        setting: path of that section, for messages.

    Raises:
        UserError: as `scorers.context.stretch`.
    """
    stretch(str(model.path), _config_of(model), context.method, context.window, setting)


def _config_of(model: LocalModel) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(model.path, trust_remote_code=False)
