"""Publishing revisions of the store on the Hub, each after the revisions and models it was made from.

The published revision differs from the local one in its manifest and card, which name repositories and commits of the
Hub, and in an adapter's configuration, which names the published base model. All other data files are the same bytes.
Nothing is sent before everything that has to be sent was found, looked up and checked.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from builders.cards.card import PageOf
from builders.cards.render import languages_of, render_card
from builders.hub.client import NotOnHub
from builders.hub.commit import Content, Release, find_origin, find_release, release_commit, require_private
from builders.hub.listing import fetch_manifest, read_listing, sha256_of
from builders.hub.publication import (
    Publication,
    has_repo,
    is_adapter,
    manifest_of,
    parent_of,
    require_base,
    require_state,
    require_state_on_hub,
)
from builders.hub.refs import open_here
from builders.hub.session import FAILURES
from builders.hub.token import writable_namespace
from builders.settings.base import Settings
from builders.store.adapter import with_base
from builders.store.check import require_whole
from builders.store.files import ADAPTER_CONFIG
from builders.store.manifest import (
    FIGURE,
    FILE_NAME,
    DataFile,
    Kind,
    Manifest,
    Model,
    Parent,
    content_digest,
    portable,
)
from builders.store.ref import LOCAL, is_commit, is_local, round_tag
from builders.store.revision import Revision
from builders.store.store import Store
from scorers.errors import UserError


def publish(
    revision: Revision,
    config: Settings,
    page_of: PageOf,
    *,
    private: bool = False,
    parents: bool = True,
    with_optimizer: bool = False,
) -> dict[str, Any]:
    """Publish a revision under the tag of its round; content that is there already is not sent again.

    Args:
        revision: a revision of the store.
        config: names the store, the namespace and the licence.
        page_of: returns what the card shows beyond a manifest.
        private: create repositories private, as the setting `publish.private` does.
        parents: also publish the datasets and models it was made from that only the store has; False refuses and names
            them.
        with_optimizer: also send the training state of every model that this call publishes.

    Returns:
        `repo`, `revision` (40-hex commit), `tag`, `url`, and `uploaded`: whether a commit was made by this call.

    Raises:
        UserError: for no token or missing rights, a dataset or model it was made from that is neither in the store nor
            on the Hub, a tag that stands for other data, a public repository with `private`, a Hub that does not
            answer, or a training state that the revision lacks or that was left out when it was published.
    """
    return publish_all([revision], config, page_of, private=private, parents=parents, with_optimizer=with_optimizer)[0]


def publish_all(
    revisions: Sequence[Revision],
    config: Settings,
    page_of: PageOf,
    *,
    private: bool = False,
    parents: bool = True,
    with_optimizer: bool = False,
) -> list[dict[str, Any]]:
    """Publish several revisions in their order, each after what it was made from; see `publish`.

    Raises:
        UserError: as `publish`; of several models one at least has to carry a training state for `with_optimizer`.
    """
    FAILURES.clear()  # what failed before says nothing about this call
    publisher = _Publisher(
        Store(Path(config.store)),
        writable_namespace(config.namespace),
        config.publish.license,
        page_of,
        private=private or config.publish.private,
        parents=parents,
        with_optimizer=with_optimizer,
    )
    if with_optimizer:
        require_state(revisions)
    found = publisher.publish(revisions)
    if with_optimizer:
        for revision, there in zip(revisions, found, strict=True):
            require_state_on_hub(revision, there)
    return [there.report() for there in found]


def push(
    text: str,
    config: Settings,
    page_of: PageOf,
    *,
    private: bool = False,
    parents: bool = True,
    with_optimizer: bool = False,
    kind: Kind | None = None,
) -> dict[str, Any]:
    """Publish the revision that a REF names in the store, or at a path; see `publish`.

    Of a name that a dataset and a model have, the dataset is meant unless a kind is given.

    Raises:
        UserError: as `publish`, and where the store does not hold the revision.
    """
    store = Store(Path(config.store))
    found = open_here(text, store, kind)
    if found is None:
        raise UserError(
            f"{text}: not in the store {store.root}; `grace status` shows what is, `grace pull` brings more"
        )
    return publish(found, config, page_of, private=private, parents=parents, with_optimizer=with_optimizer)


@dataclass
class _Publisher:
    """One call of `publish_all`.

    Attributes:
        store: the local store.
        namespace: user or organisation on the Hub.
        license: licence id for the cards.
        page_of: returns what the card shows beyond a manifest.
        private: whether new repositories are private.
        parents: whether revisions that only the store has are published too, if another was made from them.
        with_optimizer: whether models take their training state with them.
        done: publications so far, by local `repo@revision`.
    """

    store: Store
    namespace: str
    license: str
    page_of: PageOf
    private: bool
    parents: bool
    with_optimizer: bool = False
    done: dict[str, Publication] = field(default_factory=dict)

    def publish(self, revisions: Sequence[Revision]) -> list[Publication]:
        """Publish revisions, and before each all that it was made from and the Hub lacks."""
        for revision in self._missing(revisions):
            self.done[str(revision)] = self._release(revision)
        return [self.done[str(revision)] for revision in revisions]

    def _missing(self, revisions: Sequence[Revision]) -> list[Revision]:
        """Return the revisions that the Hub lacks, checked, each after those it was made from.

        They are walked with a list, since many rounds are deeper than Python's stack.

        Raises:
            UserError: as `publish`; nothing has been sent.
        """
        wanted = {str(revision) for revision in revisions}
        if self.private:
            for revision in revisions:
                require_private(self._repo(revision), manifest_of(revision).kind)
        # A stack: the revision that is worked on comes from its end. The second visit comes after those before it.
        waiting = list(reversed(revisions))
        opened: set[str] = set()
        missing: dict[str, Revision] = {}
        while waiting:
            current = waiting.pop()
            name = str(current)
            if name in self.done or name in missing:
                continue
            if name in opened:
                missing[name] = current
                continue
            opened.add(name)
            if self.find(current) is not None:
                continue
            if self.private and name not in wanted:
                require_private(self._repo(current), manifest_of(current).kind)
            before = self._before(current)
            if not self.parents:
                self._require_published(current, [found for found in before if str(found) not in wanted])
            waiting += [current, *reversed(before)]
        return list(missing.values())

    def _before(self, revision: Revision) -> list[Revision]:
        """Check that a revision can be published, and return the revisions of the store that it was made from.

        Raises:
            UserError: for a damaged file, for what is neither in the store nor on the Hub, and for an adapter whose
                base model has no repository.
        """
        manifest = manifest_of(revision)
        require_whole(manifest, revision.path, str(revision))
        require_base(revision)
        found: dict[str, Revision] = {}
        for parent in manifest.parents:
            self._collect(found, Model(id=parent.repo, revision=parent.revision), parent, revision)
        for model in manifest.models.values():
            if has_repo(model):
                self._collect(found, model, parent_of(manifest, model), revision)
        return list(found.values())

    def _collect(self, found: dict[str, Revision], named: Model, parent: Parent | None, child: Revision) -> None:
        """Add what a manifest names to the revisions that have to be published, or see that the Hub has it.

        Args:
            found: the revisions by name; it is added to.
            named: repository and revision.
            parent: its record among the parents; None for a model that is none.
            child: the revision whose manifest it is.

        Raises:
            UserError: where neither the store nor the Hub has it.
        """
        if str(named) in self.done or str(named) in found:
            return
        kind: Kind = "model" if parent is None else parent.kind
        local = self._local(named, kind)
        if local is not None:
            found[str(named)] = local
            return
        missing: UserError | None = None
        if "/" not in named.id or is_local(named.id) or not is_commit(named.revision):
            what = f"its {'model' if parent is None else 'parent'} {named}"
            missing = UserError(
                f"{child}: {what} is neither on the Hub nor in the store, so its origin cannot be shown; build it "
                f"from a {kind} that is"
            )
        elif parent is not None or named.id.partition("/")[0] == self.namespace:
            try:
                read_listing(named.id, named.revision, kind)
            except NotOnHub as error:
                missing = error
        if missing is not None:
            # Built here once and lost since: the Hub may still have it, under its tag.
            there = None if parent is None else self._published_before(parent)
            if there is None:
                raise missing
            self.done[str(named)] = there

    def _local(self, named: Model, kind: Kind) -> Revision | None:
        """Return a revision that was built here; None for one from the Hub, or one that the store lacks."""
        if "/" not in named.id:
            return None
        found = self.store.find(named.id, named.revision, kind)
        return found if found is not None and found.made_here else None

    def _published_before(self, parent: Parent) -> Publication | None:
        """Return where the Hub has a parent that was built here and the store lost, by its tag and digest."""
        owner = parent.repo.rpartition("/")[0]
        if owner not in (LOCAL, self.namespace) or parent.round is None:
            return None
        repo, tag = self._on_hub(parent.repo), round_tag(parent.round)
        commit = find_origin(repo, parent.kind, tag, parent.digest)
        manifest = None if commit is None else fetch_manifest(repo, commit, parent.kind)
        if commit is None or manifest is None:
            return None
        return Publication(repo, commit, tag, parent.kind, manifest.digest)

    def _require_published(self, revision: Revision, before: Sequence[Revision]) -> None:
        """Check that the Hub has what a revision was made from.

        Raises:
            UserError: naming what only the store has.
        """
        missing = [str(found) for found in before if self.find(found) is None]
        if missing:
            raise UserError(
                f"{self._plain(revision)}: not published, since --no-parents was given and these parents are only in "
                f"the store: {', '.join(missing)}; publish them first, or leave --no-parents out"
            )

    def find(self, revision: Revision) -> Publication | None:
        """Return where the Hub has a revision under its tag; None where it has not."""
        if (known := self.done.get(str(revision))) is not None:
            return known
        manifest = manifest_of(revision)
        base = manifest.models.get("base")
        # What an adapter's files are depends on where its base is; without that the adapter cannot be there either.
        if is_adapter(manifest) and base is not None and not self._find_base(manifest, base):
            return None
        plain = self._plain(revision)
        commit = find_release(plain)
        if commit is None:
            return None
        there = self.done[str(revision)] = Publication(plain.repo, commit, plain.tag, plain.kind, plain.digest)
        return there

    def _find_base(self, manifest: Manifest, base: Model) -> bool:
        """Look up an adapter's base model; False for one that was built here and is not on the Hub."""
        if (local := self._local(base, "model")) is not None:
            return self.find(local) is not None
        parent = parent_of(manifest, base)
        if not is_local(base.id) or parent is None:
            return True
        if (there := self._published_before(parent)) is not None:
            self.done[str(base)] = there
        return there is not None

    def _on_hub(self, repo: str) -> str:
        """Return the repository on the Hub of one of the store."""
        return f"{self.namespace}/{repo.rpartition('/')[2]}"

    def _repo(self, revision: Revision) -> str:
        """Return the repository on the Hub of a revision."""
        return self._on_hub(manifest_of(revision).repo)

    def _plain(self, revision: Revision) -> Release:
        """Return the release of a revision's data files alone, without card and manifest."""
        manifest = manifest_of(revision)
        files, rendered = self._files(revision, manifest)
        digest, tag = content_digest(files), round_tag(manifest.round)
        return Release(
            repo=self._repo(revision),
            kind=manifest.kind,
            tag=tag,
            title=f"{manifest.stage} {tag}",
            digest=digest,
            data={file.path: file for file in files},
            folder=revision.path,
            rendered=rendered,
            origin=None if digest == manifest.digest else manifest.digest,
        )

    def _files(self, revision: Revision, manifest: Manifest) -> tuple[list[DataFile], dict[str, bytes]]:
        """Return the files to publish, and the content of those that differ from the local ones.

        That is an adapter's configuration, which names its base model on the Hub, where that is published by now.
        """
        base = manifest.models.get("base")
        if not is_adapter(manifest) or base is None:
            return manifest.files, {}
        there = self._published_model(base)
        files: list[DataFile] = []
        contents: dict[str, bytes] = {}
        for file in manifest.files:
            if PurePosixPath(file.path).name == ADAPTER_CONFIG:
                content = with_base((revision.path / file.path).parent, there)
                named = DataFile(path=file.path, size=len(content), sha256=sha256_of(content))
                contents |= {} if named == file else {file.path: content}
                file = named
            files.append(file)
        return (files, contents) if contents else (manifest.files, {})

    def _release(self, revision: Revision) -> Publication:
        """Publish a revision; what it was made from is on the Hub."""
        plain = self._plain(revision)
        manifest = self._published_manifest(manifest_of(revision), plain)
        release = replace(plain, side=self._side_files(revision, manifest))
        commit, sent = release_commit(release, private=self.private)
        return Publication(release.repo, commit, release.tag, release.kind, release.digest, uploaded=sent)

    def _side_files(self, revision: Revision, manifest: Manifest) -> dict[str, Content]:
        """Return the published manifest and card, the figures that the card shows, and a training's log, by path."""
        languages = languages_of(manifest_of(revision), revision.path, self.store)
        page = self.page_of(manifest)
        card = render_card(manifest, revision.path, page, published=True, license=self.license, languages=languages)
        side: dict[str, Content] = {FILE_NAME: manifest.to_json().encode(), "README.md": card.encode()}
        side |= {path.name: path for path in revision.path.glob("*.png") if FIGURE.fullmatch(path.name)}
        return side | {file.path: revision.path / file.path for file in manifest.apart}

    def _published_manifest(self, manifest: Manifest, plain: Release) -> Manifest:
        """Return the manifest with the repositories and commits of the Hub, and without local folders."""
        changes = {
            "repo": plain.repo,
            "parents": [self._published_parent(parent) for parent in manifest.parents],
            "models": {role: self._published_model(model) for role, model in manifest.models.items()},
            "configuration": portable(manifest.configuration),
            "execution": portable(manifest.execution),
            "files": list(plain.data.values()),
            "digest": plain.digest,
            "training_state": manifest.training_state if self.with_optimizer else None,
        }
        return manifest.model_copy(update=changes)

    def _published_parent(self, parent: Parent) -> Parent:
        """Return a parent under its repository and commit on the Hub."""
        there = self.done.get(f"{parent.repo}@{parent.revision}")
        if there is None:
            return parent
        return parent.model_copy(update={"repo": there.repo, "revision": there.revision, "digest": there.digest})

    def _published_model(self, model: Model) -> Model:
        """Return a model under its repository and commit on the Hub; one that was not made here as it is."""
        there = self.done.get(str(model))
        return model if there is None else Model(id=there.repo, revision=there.revision)
