"""Where a revision is on the Hub, and what its manifest says of what it was made from and of its training state."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from builders.hub.client import endpoint
from builders.hub.listing import read_listing
from builders.store.files import ADAPTER_CONFIG
from builders.store.manifest import Kind, Manifest, Model, Parent
from builders.store.ref import is_commit
from builders.store.revision import Revision
from scorers.errors import UserError


@dataclass(frozen=True)
class Publication:
    """Where a revision is on the Hub.

    Attributes:
        repo: the repository.
        revision: the 40-hex commit.
        tag: the tag of the round.
        kind: `dataset` or `model`.
        digest: content digest of the published files.
        uploaded: whether this call made the commit.
    """

    repo: str
    revision: str
    tag: str
    kind: Kind
    digest: str
    uploaded: bool = False

    def report(self) -> dict[str, Any]:
        """Return the public JSON form."""
        prefix = "datasets/" if self.kind == "dataset" else ""
        return {
            "repo": self.repo,
            "revision": self.revision,
            "tag": self.tag,
            "url": f"{endpoint()}/{prefix}{self.repo}/tree/{self.revision}",
            "uploaded": self.uploaded,
        }


def has_repo(model: Model) -> bool:
    """Whether a model is named by a repository and a commit; a folder is not."""
    return model.id.count("/") == 1 and is_commit(model.revision)


def is_adapter(manifest: Manifest) -> bool:
    """Whether a revision is a LoRA adapter, which is of no use without its base model."""
    return manifest.kind == "model" and any(file.path.rpartition("/")[2] == ADAPTER_CONFIG for file in manifest.files)


def parent_of(manifest: Manifest, model: Model) -> Parent | None:
    """Return a model's record among the parents; None where it has none, since the configuration names it."""
    same = (p for p in manifest.parents if (p.kind, p.repo, p.revision) == ("model", model.id, model.revision))
    return next(same, None)


def manifest_of(revision: Revision) -> Manifest:
    """Return a revision's manifest.

    Raises:
        UserError: for data that this project did not make.
    """
    if revision.manifest is None:
        raise UserError(f"{revision}: has no manifest; only what this project made can be published")
    return revision.manifest


def require_state(revisions: Sequence[Revision]) -> None:
    """Check that among models one has the training state that is to be published; a dataset's policies may lack theirs.

    Raises:
        UserError: naming a model without it.
    """
    models = [revision for revision in revisions if manifest_of(revision).kind == "model"]
    if models and not any(manifest_of(model).training_state for model in models):
        raise UserError(
            f"{models[-1]}: carries no training state, which --with-optimizer publishes; leave the option out, or "
            "train the model anew: `train --force`"
        )


def require_state_on_hub(revision: Revision, there: Publication) -> None:
    """Check that the training state stands under the tag, where the revision may have been published without it.

    Raises:
        UserError: where it does not.
    """
    state = {file.path for file in manifest_of(revision).training_state or ()}
    if state and not state <= read_listing(there.repo, there.revision, there.kind).keys():
        raise UserError(
            f"{there.repo}: {there.tag} was published without the optimizer, and tags never move; "
            "publish under another name: or namespace:"
        )


def require_base(revision: Revision) -> None:
    """Check that others can load the base model of an adapter.

    Raises:
        UserError: for an adapter whose base model has no repository.
    """
    manifest = manifest_of(revision)
    base = manifest.models.get("base")
    if is_adapter(manifest) and (base is None or not has_repo(base)):
        raise UserError(
            f"{revision}: not published, since nobody else could load it: it is an adapter and its base model "
            f"{base.id if base else ''} is a folder of this machine; publish that model on the Hub and train from "
            "its name, or train with method: full"
        )
