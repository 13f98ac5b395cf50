"""The build graph: the stages above a target, what each of them is made from, and whether it is stale.

A node is a stage in a round. Its fingerprint is the SHA-256 of everything that decides its data: pipeline, stage and
version, round, the settings that matter, prompts, the parents' content digests and the models. Batch sizes, devices and
numbers of workers are not part of it, since they decide time and memory only.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

from builders.core.continued import continued, is_awaited, require_last_round
from builders.core.models import AnyModel, ModelFinder
from builders.core.nodes import Needs, Node, needs
from builders.core.pipeline import Pipeline, tag_of
from builders.core.stage import Source, Stage
from builders.settings.base import Settings, identities, left_out, section_at
from builders.store.manifest import AGAIN, FILE_NAME, Manifest, Parent, fingerprint_of, portable
from builders.store.revision import Revision
from builders.store.store import Store
from scorers.errors import UserError

SOURCE = "source"
"""The name under which a stage reads a dataset from outside, and under which its manifest lists it."""


@dataclass(frozen=True)
class Inputs:
    """The resolved inputs of a node: everything that decides its result.

    Attributes:
        parents: the parents' revisions by name.
        models: the models on disk by role.
        records: the revisions made by stages, datasets and models, as the manifest lists them.
        recipe: the JSON value whose hash is the fingerprint.
        source: what is read from outside; None where nothing is, or where a parent takes its place.
    """

    parents: dict[str, Revision]
    models: Mapping[str, AnyModel]
    records: list[Parent]
    recipe: dict[str, Any]
    source: Source | None = None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the recipe, 64 hex digits."""
        return fingerprint_of(self.recipe)


class Graph:
    """The target nodes and all nodes they are made from.

    Args:
        pipeline: the stages.
        config: the settings that decide what each stage reads.
        store: where existing revisions are looked up.
        targets: the nodes that are wanted.
        given: revisions that the user gives in place of a node; what such a node would be made from is not needed.
        anew: nodes that are made anew even where the store holds a pulled revision of them.
        sources: what was read from outside before, by node; it is not resolved again, and new ones are added.
        fetch: whether rounds of a run that this one continues are brought from the Hub.
        require_pinned: refuse what may move, such as a branch, where a stage reads a dataset from outside.

    Attributes:
        given: revisions in hand by node, the user's and the kept ones; what they were made from is not needed.
        kept: why a revision is taken as it is, by node: it was pulled, or is of an earlier round or a run continued.
        awaited: nodes of a run that this one continues, which are still to be brought; none with `fetch`.
        broken: by node, what is wrong with the manifest of the store's revision; such a revision cannot be used.
        needs: what each node of the graph is made from.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        config: Settings,
        store: Store,
        targets: Iterable[Node],
        given: Mapping[Node, Revision],
        anew: Set[Node] = frozenset(),
        sources: "dict[Node, Source | None] | None" = None,
        fetch: bool = True,
        require_pinned: bool = False,
    ) -> None:
        self.pipeline = pipeline
        self.config = config
        self.store = store
        self.given = dict(given)
        self.anew = anew
        self.sources = {} if sources is None else sources
        self.fetch = fetch
        self.require_pinned = require_pinned
        self.kept: dict[Node, str] = {}
        self.awaited: set[Node] = set()
        self.broken: dict[Node, str] = {}
        self.needs: dict[Node, Needs] = {}
        targets = list(targets)
        require_last_round(pipeline, config, store, fetch=fetch)
        self._first_round = min((node.round for node in targets if node.round), default=0)
        # Walk upwards from the targets; a node that several others need is visited once.
        waiting = targets
        while waiting:
            node = waiting.pop()
            if node not in self.needs:
                self.needs[node] = self._needs(node)
                waiting += sorted(self.needs[node].nodes())

    def _needs(self, node: Node) -> Needs:
        """Return what a node is made from; nothing for a revision in hand."""
        # A revision in hand needs no parents.
        if node in self.given:
            return Needs({}, {})
        existing = None
        if node not in self.anew:
            found = self._continued(node)
            if node in self.awaited:
                return Needs({}, {})
            if found is not None:
                self.given[node] = found
                self.kept[node] = f"of {self.config.continues}"
                return Needs({}, {})
            existing = self.existing(node)
        if existing is not None and (reason := self._kept_reason(existing, node)) is not None:
            self.given[node] = existing
            self.kept[node] = reason
            return Needs({}, {})
        return needs(self.pipeline, self.config, node, self.given)

    def _kept_reason(self, existing: Revision, node: Node) -> str | None:
        """Say why a revision is taken as it is; None where it has to be compared with what would be built now."""
        # A round stands on the results of the rounds before it; whether those are fresh is asked when they are built.
        # Otherwise a policy that was trained on a dataset given by the user would be trained anew for the next round.
        if 0 < node.round < self._first_round:
            return "of an earlier round"
        # A pulled revision names parents that need not be in this store: only its settings can be compared.
        pulled = not existing.made_here and not existing.local
        if pulled and not self.changed_settings(existing, node) and not self.changed_models(existing, node):
            return "as it was pulled"
        return None

    def _continued(self, node: Node) -> Revision | None:
        """Return a node's revision in the run that this one continues; None where it has none that can be used."""
        found = continued(self.pipeline, self.config, self.store, node.stage, node.round, fetch=self.fetch)
        if found is None:
            if not self.fetch and is_awaited(self.config, node.round):
                self.awaited.add(node)
            return None
        # What all rounds share is made anew under other settings, such as another source of seeds, or other models.
        changed = node.round == 0 and (self.changed_settings(found, node) or self.changed_models(found, node))
        return None if changed else found

    def held(self, node: Node) -> Revision | None:
        """Return the revision in hand of a node, else what the store holds of it, see `existing`."""
        return self.given.get(node) or self.existing(node)

    def existing(self, node: Node) -> Revision | None:
        """Return the store's revision of a node, fresh or stale; None where it holds none, or a `broken` one."""
        stage = self.pipeline.stage(node.stage)
        try:
            found = self.store.find(self.pipeline.repo(stage, self.config), tag_of(stage, node.round), stage.kind)
        except UserError as error:
            self.broken[node] = str(error)
            return None
        # Elsewhere a revision without a manifest is other people's.
        if found is not None and found.manifest is None and found.local:
            self.broken[node] = f"{found.path / FILE_NAME} is missing; {AGAIN}"
            return None
        return found

    def require_readable(self, replaced: Set[Node] = frozenset()) -> None:
        """Check that every revision which the graph finds in the store has a readable manifest.

        Args:
            replaced: nodes that are built anew, whatever the store holds.

        Raises:
            UserError: naming the first manifest that is missing or cannot be read.
        """
        if used := sorted(self.broken.keys() - replaced):
            raise UserError(self.broken[used[0]])

    def changed_settings(self, revision: Revision, node: Node) -> list[str]:
        """List the settings in which a revision differs from what would be built now; empty where none does.

        Another stage version, or a missing manifest, is listed in their place.
        """
        manifest = revision.manifest
        stage = self.pipeline.stage(node.stage)
        if manifest is None:
            return ["manifest"]
        if manifest.stage_version != stage.version:
            return [f"stage version {manifest.stage_version} → {stage.version}"]
        free = {path for path in stage.sections if isinstance(section_at(self.config, path), dict)}
        # A setting that a manifest has and that is at its default now, which configurations leave out.
        back = [
            f"{path}.{name}"
            for path in stage.sections
            if isinstance(before := manifest.configuration.get(path), dict)
            for name in sorted(left_out(section_at(self.config, path)) & before.keys())
        ]
        return changed(manifest, configuration_of(stage, self.config), free) + back

    def changed_models(self, revision: Revision, node: Node) -> list[str]:
        """List the roles whose model is another one, by name, than the one a revision was made with.

        Where a stage makes the model, the stage has to be the same; which of its revisions it was does not count.
        """
        manifest = revision.manifest
        if manifest is None:
            return []
        made_by = {(p.repo, p.revision): p.stage for p in manifest.parents if p.kind == "model"}
        changed = []
        for role, wanted in needs(self.pipeline, self.config, node).models.items():
            recorded = manifest.models.get(role)
            if recorded is None:
                continue
            stage = made_by.get((recorded.id, recorded.revision))
            # A folder is recorded by its last part; a repository of the store is published under another namespace.
            same = stage == wanted.stage if isinstance(wanted, Node) else last_part(wanted) == last_part(recorded.id)
            changed += [] if same else [role]
        return changed

    def order(self) -> TopologicalSorter[Node]:
        """Return a prepared sorter that yields each node after those it is made from.

        Raises:
            UserError: where a setting makes a stage its own parent.
        """
        # Sorted, so that equal graphs are built in the same order: a set's order differs from process to process.
        sorter: TopologicalSorter[Node] = TopologicalSorter(
            {node: sorted(found.nodes()) for node, found in sorted(self.needs.items())}
        )
        try:
            sorter.prepare()
        except CycleError as error:
            circle = " ← ".join(f"{node.stage}" for node in error.args[1])
            raise UserError(
                f"the configuration makes a stage its own parent: {circle}; look at models: and at the sources"
            ) from None
        return sorter

    def sorted(self) -> list[Node]:
        """List the nodes, each after those it is made from."""
        sorter = self.order()
        nodes = []
        while sorter.is_active():
            for node in sorter.get_ready():
                nodes.append(node)
                sorter.done(node)
        return nodes

    def inputs(self, node: Node, made: Mapping[Node, Revision], finder: ModelFinder) -> Inputs:
        """Resolve everything that decides a node's result.

        Args:
            node: a node of the graph.
            made: revisions of all nodes it is made from.
            finder: resolves the names of models that no stage makes.

        Raises:
            UserError: for a model or a source that is missing.
        """
        stage = self.pipeline.stage(node.stage)
        found = self.needs[node]
        source = self._source(node, stage)
        parents = {name: made[above] for name, above in found.parents.items()}
        models = {role: _local(wanted, made, finder) for role, wanted in found.models.items()}
        # Hashed into the fingerprint: another key or another spelling here makes every existing revision stale.
        recipe = {
            "pipeline": self.pipeline.name,
            "stage": stage.name,
            "kind": stage.kind,
            "version": stage.version,
            "round": node.round,
            "configuration": configuration_of(stage, self.config),
            "prompts": stage.prompts(self.config, parents) if stage.prompts else {},
            "parents": {name: parent.digest for name, parent in parents.items()},
            "models": {role: [model.record.id, model.record.revision] for role, model in models.items()},
            "source": source.identity if source else None,
        }
        return Inputs(parents, models, self._records(found, made), recipe, source)

    def _source(self, node: Node, stage: Stage) -> Source | None:
        """Return what a node reads from outside, resolved once: a branch of the Hub may move while a run lasts."""
        # Where a parent takes the source's place, its digest identifies it.
        if stage.source is None or "source" in self.needs[node].parents:
            return None
        if node not in self.sources:
            self.sources[node] = stage.source(self.config, self.require_pinned)
        return self.sources[node]

    def _records(self, found: Needs, made: Mapping[Node, Revision]) -> list[Parent]:
        """List the revisions that the node reads and a stage made, datasets and models, for the manifest."""
        above = [*found.parents.values(), *(wanted for wanted in found.models.values() if isinstance(wanted, Node))]
        records = []
        # Each node once: one model may fill several roles.
        for node in dict.fromkeys(above):
            revision = made[node]
            kind = self.pipeline.stage(node.stage).kind
            round_ = revision.manifest.round if revision.manifest else None
            records.append(
                Parent(
                    stage=node.stage,
                    kind=kind,
                    round=round_,
                    repo=revision.repo,
                    revision=revision.revision,
                    digest=revision.digest,
                    subset=revision.part.subset,
                    split=revision.part.split,
                )
            )
        return records

    def stale_reason(self, node: Node, inputs: Inputs) -> str | None:
        """Say in words why a node has to be built; None where its revision is fresh."""
        existing = self.existing(node)
        if existing is None or existing.manifest is None:
            return "missing"
        manifest = existing.manifest
        if manifest.fingerprint == inputs.fingerprint:
            return None
        # The fingerprints differ. What follows only finds the words for it, the most likely cause first.
        if settings := self.changed_settings(existing, node):
            version = settings[0].startswith("stage version")
            return settings[0] if version else f"configuration changed: {', '.join(settings)}"
        # By digest, not by revision: a parent that was rebuilt with equal content has not changed.
        old = {(parent.stage, parent.digest) for parent in manifest.parents}
        moved = [p.stage for p in inputs.records if (p.stage, p.digest) not in old]
        if moved:
            return f"parent changed: {', '.join(moved)}"
        swapped = [role for role, model in inputs.models.items() if manifest.models.get(role) != model.record]
        if swapped:
            return f"model changed: {', '.join(swapped)}"
        old_prompts = manifest.prompts
        was = next((parent for parent in manifest.parents if parent.stage == SOURCE), None)
        if was is not None and inputs.source is not None and inputs.source.identity != was.revision:
            return f"source moved: {was.repo} from {was.revision} to {inputs.source.identity}"
        prompts = [name for name, text in inputs.recipe["prompts"].items() if old_prompts.get(name) != text]
        return f"prompt changed: {', '.join(prompts)}" if prompts else "source or manifest format changed"


def last_part(name: str) -> str:
    """Return the last part of a folder's or a repository's name, without a revision."""
    return name.rstrip("/").rpartition("/")[2].partition("@")[0]


def _local(wanted: "Node | str", made: Mapping[Node, Revision], finder: ModelFinder) -> AnyModel:
    """Return the model of a role: a stage's revision, or a model found by its name."""
    return finder.of(made[wanted]) if isinstance(wanted, Node) else finder.find_any(wanted)


def configuration_of(stage: Stage, config: Settings) -> dict[str, Any]:
    """Return the settings that decide a stage's data, by section; absolute paths are cut to their last part."""
    configuration: dict[str, Any] = portable(identities(config, stage.sections))
    return configuration


def changed(manifest: Manifest, configuration: Mapping[str, Any], free: Set[str] = frozenset()) -> list[str]:
    """List the settings in which a manifest differs from a configuration, as `section.key`.

    Only what both have is compared: sections that the manifest lacks, and keys that it alone has, are passed over.

    Args:
        manifest: of an existing revision.
        configuration: the settings by section, as `configuration_of` returns them.
        free: sections that are one setting with keys of the user's own, such as the variables of a chat template; they
            are compared whole, since a key less is a change too.
    """
    names = []
    for section, values in configuration.items():
        if section not in manifest.configuration:  # an older manifest that does not say
            continue
        before = manifest.configuration[section]
        # A single setting, such as random_seed, stands where others have a section.
        if section in free or not isinstance(values, dict):
            names += [section] if before != values else []
            continue
        old = before if isinstance(before, dict) else {}
        names += [f"{section}.{key}" for key, value in values.items() if old.get(key) != value]
    return names
