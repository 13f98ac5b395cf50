"""Where a revision is on the Hub, and what its manifest says of the revisions and models it was made from."""

from dataclasses import dataclass
from typing import Any

from builders.hub.client import endpoint
from builders.store.files import ADAPTER_CONFIG
from builders.store.manifest import Kind, Manifest, Model, Parent
from builders.store.store import Revision, is_commit
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
    return manifest.kind == "model" and any(file.path == ADAPTER_CONFIG for file in manifest.files)


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
