"""What the stages of WritingBench that ask a model need, checked before anything is built."""

from builders.core.machine import require_engine
from builders.core.models import on_disk, require_policy
from builders.core.prompting import chat
from builders.core.stage import FindModel
from builders.settings.engines import OpenAIEngineSettings
from builders.writingbench.settings import WritingBenchSettings


def engine_ready(config: WritingBenchSettings, find: FindModel, role: str) -> None:
    """Check a role's engine and models: devices, packages, chat template.

    Raises:
        UserError: as `require_engine` and `require_policy`.
    """
    engine, setting = getattr(config.engines, role), f"engines.{role}"
    require_engine(setting, engine)
    if isinstance(engine, OpenAIEngineSettings):
        return  # what its model takes, the server alone knows
    for name in config.models_of(role):
        model = find(name)
        if model is not None:
            require_policy(engine, on_disk(model, setting), [chat("Write.")], setting)
