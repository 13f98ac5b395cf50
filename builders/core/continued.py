"""A run that goes on from the rounds of another run, `continues: namespace/name@round-NNN`.

Its rounds up to that one, and what all of its rounds share, are taken as they are published, or as they lie in the
store. Only reading them is needed: what is made from there on has the name and the namespace of the run that goes on.
"""

import logging

from builders.core.pipeline import Pipeline, tag_of
from builders.settings.base import Settings
from builders.store.names import near_names
from builders.store.ref import Ref, is_local
from builders.store.revision import Revision
from builders.store.store import Store
from scorers.errors import UserError

log = logging.getLogger(__name__)


def continued(
    pipeline: Pipeline, config: Settings, store: Store, stage_name: str, round_: int, *, fetch: bool = True
) -> Revision | None:
    """Return a stage's revision in the run that `config.continues` names.

    Args:
        pipeline: the pipeline of both runs.
        config: the settings of the run that goes on.
        store: the local store; what it lacks comes from the Hub.
        stage_name: name of the stage.
        round_: its round; 0 where all rounds share it.
        fetch: whether the Hub is asked.

    Returns:
        The revision. None where no run is continued, for a later round than the one it is continued from, for a stage
        of round 0 that the run did not publish, and without `fetch` for what the store lacks.

    Raises:
        UserError: a round that is neither in the store nor on the Hub, or a Hub that does not answer.
    """
    if config.continues is None or round_ > last_round(config):
        return None
    stage = pipeline.stage(stage_name)
    ref = continued_ref(pipeline, config, stage_name, round_)
    held = store.find(ref.repo, tag_of(stage, round_), stage.kind)
    if held is not None or not fetch:
        return held
    from builders.hub.client import NotOnHub
    from builders.hub.pull import pull

    try:
        return pull(ref, store, stage.kind)
    except NotOnHub as error:
        if round_ == 0:
            if not is_local(ref.repo):
                log.info("%s: not published, so it is made here", ref)
            return None
        near = near_names(str(ref), store, (stage.kind,))
        raise UserError(f"continues {config.continues}: {error}{f'; {near}' if near else ''}") from None


def continued_ref(pipeline: Pipeline, config: Settings, stage_name: str, round_: int) -> Ref:
    """Return the name of a stage's revision in the run that `config.continues` names, which has to be set."""
    stage = pipeline.stage(stage_name)
    namespace, _, name = str(config.continues).partition("@")[0].partition("/")
    # What the runs of a store share has a name of its own, and was published beside the run.
    stem = name if stage.stem is None else stage.stem(config)
    return Ref(f"{namespace}/{stem}-{stage.suffix}", tag_of(stage, round_))


def last_round(config: Settings) -> int:
    """Return the round after which `config.continues` goes on; 0 where no run is continued."""
    return 0 if config.continues is None else int(config.continues.partition("@round-")[2])


def is_awaited(config: Settings, round_: int) -> bool:
    """Whether a revision that the store lacks is looked for on the Hub when something is built."""
    return config.continues is not None and not is_local(config.continues) and round_ <= last_round(config)


def require_last_round(pipeline: Pipeline, config: Settings, store: Store, *, fetch: bool) -> None:
    """Check that the run that is continued is another one, and that it ended the round from which it is continued.

    Raises:
        UserError: it is this run, or has no such round.
    """
    if config.continues is None:
        return
    run = config.continues.partition("@")[0]
    if run == f"{config.local_namespace}/{config.name}":
        raise UserError(
            f"continues {config.continues}: is this run itself; give this one another name, or leave continues out"
        )
    if last_round(config) and (fetch or is_local(run)):
        continued(pipeline, config, store, pipeline.last, last_round(config))
