"""What asking a role's models needs, checked before anything is built."""

from builders.core.machine import require_engine
from builders.core.models import on_disk, require_policy
from builders.core.prompting import chat
from builders.core.stage import FindModel
from builders.settings.base import Settings, section_at
from builders.settings.engines import OpenAIEngineSettings


def engine_ready(config: Settings, find: FindModel, role: str) -> None:
    """Check a role's engine and models: devices, packages, chat template.

    Raises:
        UserError: as `require_engine` and `require_policy`.
    """
    setting = f"engines.{role}"
    engine = section_at(config, setting)
    require_engine(setting, engine)
    if isinstance(engine, OpenAIEngineSettings):
        return  # what its model takes, the server alone knows
    for name in config.models_of(role):
        model = find(name)
        if model is not None:
            require_policy(engine, on_disk(model, setting), [chat("Write.")], setting)
