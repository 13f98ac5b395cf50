"""What the stages of RationAlign need of machine and models, checked before anything is built."""

from functools import partial

from builders.core.machine import local_engine, require_device, require_engine, require_package
from builders.core.ready import engine_ready
from builders.core.stage import FindModel
from builders.rationalign.settings import RationAlignSettings
from scorers.errors import UserError

BLEU = "install the extra that brings it: pip install 'grace-data[sample]'"

teacher_ready = partial(engine_ready, role="teacher")


def pairs_ready(config: RationAlignSettings, find: FindModel) -> None:
    """Check that there are sources of labelled texts.

    Raises:
        UserError: there are none.
    """
    if not config.pairs.sources:
        raise UserError("pairs.sources names no source; give labelled texts: [{source: FILE, task: gec}, …]")


def contest_ready(config: RationAlignSettings, find: FindModel) -> None:
    """Check the engine of the fold models, which are made here, and the package of the metric BLEU.

    Raises:
        UserError: the engine asks a server, or this machine lacks what it needs.
    """
    require_engine("engines.policy", local_engine("engines.policy", config.engines.policy, "contest"))
    require_package("contest", "sacrebleu", BLEU)


def prefer_ready(config: RationAlignSettings, find: FindModel) -> None:
    """Check the device of the reward model.

    Raises:
        UserError: it is not there.
    """
    require_device("prefer.device", config.prefer.device)
