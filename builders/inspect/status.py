"""`grace status`: what the store holds of a configuration, and what is still missing."""

from pathlib import Path

from builders.core.models import policy_repo, sft_repo
from builders.core.run import repo_of, tag_of
from builders.settings.load import Config
from builders.store.store import Revision, Store, round_tag
from training.pipelines import GRACE_KTO


def status_rows(config: Config) -> list[dict[str, object]]:
    """One row for each revision that the rounds of this configuration have made or will make."""
    store = Store(Path(config.store))
    rows = [_row(0, "seed", store.find(repo_of(GRACE_KTO[0], config), tag_of(GRACE_KTO[0], 0)))]
    rows.append(_row(0, "sft", store.find(sft_repo(config), "main", "model")))
    for round_ in range(1, config.loop.rounds + 1):
        for stage in GRACE_KTO[1:]:
            rows.append(_row(round_, stage.name, store.find(repo_of(stage, config), tag_of(stage, round_))))
        rows.append(_row(round_, "train", store.find(policy_repo(config), round_tag(round_), "model")))
    return rows


def _row(round_: int, stage: str, revision: Revision | None) -> dict[str, object]:
    manifest = revision.manifest if revision else None
    return {
        "round": round_,
        "stage": stage,
        "state": "built" if revision else "missing",
        "rows": manifest.rows.written if manifest else None,
        "revision": str(revision) if revision else None,
        "digest": revision.digest if revision else None,
    }
