"""Revisions of format 1, which the version before wrote: pulled, traced, and published again as format 2."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hub_clients import TOKEN
from hub_server import HubServer
from huggingface_hub import HfApi, constants
from store_chains import add_dataset, add_model, add_rounds, config_for, parent_of

from builders.hub.publish import publish
from builders.hub.pull import pull
from builders.hub.refs import open_revision
from builders.inspect.lineage import FOUND, lineage
from builders.inspect.verify import verify
from builders.store.manifest import Manifest
from builders.store.ref import Ref, round_tag
from builders.store.revision import Revision
from builders.store.store import Store
from training.pipelines import PIPELINES, page_of

pytestmark = pytest.mark.slow

NEW = ("pipeline", "execution", "bytes_depend_on")  # fields that format 1 had not
STAGES = {"policy": "train"}  # as format 1 called them


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store of somebody else, who has nothing yet; nor has the cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return Store(tmp_path / "empty")


def format_1(manifest: Manifest) -> bytes:
    """The manifest as the version before wrote it: no pipeline, no kind or round of a parent, one engine."""
    value = {key: item for key, item in manifest.model_dump().items() if key not in NEW} | {"format": 1}
    value["stage"] = STAGES.get(manifest.stage, manifest.stage)
    settings = {key: item for key, item in manifest.configuration.items() if key not in ("random_seed", "threads")}
    value["configuration"] = {"engine" if key == "engines.policy" else key: item for key, item in settings.items()}
    value["parents"] = [_parent_1(parent, manifest) for parent in value["parents"]]
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()


def _parent_1(parent: dict[str, Any], manifest: Manifest) -> dict[str, Any]:
    stage = STAGES.get(parent["stage"], parent["stage"])
    if parent["stage"] == manifest.stage == "generate":  # the queries of an earlier round, which are left out
        stage = f"queries {round_tag(parent['round'])}"
    return {"stage": stage, **{key: parent[key] for key in ("repo", "revision", "digest")}}


def downgrade(store: Store, revision: Revision) -> Revision:
    """Put a revision of format 1 in the place of one of format 2; it is named by its own manifest's SHA-1."""
    manifest = revision.manifest
    assert manifest is not None
    content = format_1(manifest)
    name = hashlib.sha1(content).hexdigest()
    (revision.path / "manifest.json").write_bytes(content)
    revision.path.rename(revision.path.with_name(name))
    store.set_refs(revision.repo, manifest.kind, name, ["main", round_tag(manifest.round)])
    found = store.find(revision.repo, name, manifest.kind)
    assert found is not None and found.made_here
    return found


def published_by_the_version_before(hub: HubServer, store: Store) -> dict[str, str]:
    """Two rounds on the Hub with manifests of format 1; the commit of each by `name tag`."""
    made = add_rounds(store)
    publish(made["policy", 1], config_for(store), page_of)
    publish(made["policy", 2], config_for(store), page_of)
    api = HfApi(endpoint=hub.endpoint, token=TOKEN)
    commits: dict[str, str] = {}
    moved: dict[str, str] = {}
    for (_, round_), revision in made.items():
        assert revision.manifest is not None
        kind, name = revision.manifest.kind, revision.repo.removeprefix("local/")
        tag = round_tag(round_)
        old = hub.repo(f"alice/{name}", kind).tags[tag]
        manifest = Manifest.model_validate_json(hub.read(f"alice/{name}", "manifest.json", tag, kind))
        parents = [p.model_copy(update={"revision": moved[p.revision]}) for p in manifest.parents]
        if name == "demo-queries" and round_ == 2:
            first = Manifest.model_validate_json(hub.read("alice/demo-queries", "manifest.json", "round-001"))
            earlier = {"stage": "generate", "kind": "dataset", "round": 1, "repo": "alice/demo-queries"}
            parents.append(parents[0].model_copy(update=earlier | {"revision": commits["demo-queries round-001"]}))
            parents[-1] = parents[-1].model_copy(update={"digest": first.digest})
        models = {
            role: model.model_copy(update={"revision": moved.get(model.revision, model.revision)})
            for role, model in manifest.models.items()
        }
        content = format_1(manifest.model_copy(update={"parents": parents, "models": models}))
        api.create_branch(f"alice/{name}", branch=f"old-{tag}", revision=tag, repo_type=kind)
        sent = api.upload_file(
            path_or_fileobj=content,
            path_in_repo="manifest.json",
            repo_id=f"alice/{name}",
            repo_type=kind,
            revision=f"old-{tag}",
        )
        moved[old] = commits[f"{name} {tag}"] = str(sent.oid)
    return commits


def test_datasets_and_models_are_pulled_whole_and_read_as_format_2(
    connected: HubServer, store: Store, empty: Store
) -> None:
    commits = published_by_the_version_before(connected, store)
    queries = pull(Ref("alice/demo-queries", commits["demo-queries round-002"]), empty)
    assert json.loads((queries.path / "manifest.json").read_bytes())["format"] == 1
    assert queries.manifest is not None and not queries.made_here
    assert (queries.manifest.format, queries.manifest.pipeline, queries.manifest.stage) == (2, "grace-kto", "generate")
    parents = [(p.stage, p.kind, p.round, p.revision) for p in queries.manifest.parents]
    earlier = ("generate", "dataset", 1, commits["demo-queries round-001"])
    assert parents == [("seed", "dataset", None, commits["demo-seed round-000"]), earlier]
    policy = pull(Ref("alice/demo-policy", commits["demo-policy round-002"]), empty, "model")
    assert policy.manifest is not None and (policy.manifest.stage, policy.manifest.kind) == ("policy", "model")
    assert verify(queries, PIPELINES) == verify(policy, PIPELINES) == []
    connected.log.clear()
    assert pull(Ref(queries.repo, queries.revision), empty) == queries and connected.log.count() == 0


def test_the_figures_of_all_versions_come_along(connected: HubServer, store: Store, empty: Store) -> None:
    made = add_dataset(store, "calibrate")
    publish(made, config_for(store), page_of)
    api = HfApi(endpoint=connected.endpoint, token=TOKEN)
    for name in ("weights.png", "figure.png", "other.png"):
        sent = api.upload_file(
            path_or_fileobj=b"PNG", path_in_repo=name, repo_id="alice/demo-weights", repo_type="dataset"
        )
    pulled = pull(Ref("alice/demo-weights", str(sent.oid)), empty)
    assert (pulled.path / "weights.png").read_bytes() == (pulled.path / "figure.png").read_bytes() == b"PNG"
    assert (pulled.path / "figure-weights.png").read_bytes() == (made.path / "figure-weights.png").read_bytes()
    assert not (pulled.path / "other.png").exists()


def test_lineage_reads_format_1_from_the_hub_through_the_policy(
    connected: HubServer, store: Store, empty: Store
) -> None:
    commits = published_by_the_version_before(connected, store)
    nodes = lineage(f"alice/demo-policy@{commits['demo-policy round-002']}", empty)
    ours = [node for node in nodes if node.stage is not None]
    assert {node.state for node in ours} == {FOUND}
    assert {f"{n.repo.removeprefix('alice/')} {round_tag(n.round or 0)}": n.revision for n in ours} == commits
    queries = next(node for node in ours if node.stage == "generate" and node.round == 2)
    assert set(queries.parents) == {"seed", "generate"} and ours[0].stage == "policy"


def test_what_the_version_before_made_is_published_as_format_2(connected: HubServer, store: Store) -> None:
    seed = downgrade(store, add_dataset(store, "seed"))
    queries = downgrade(store, add_dataset(store, "generate", [seed]))
    later = downgrade(store, add_dataset(store, "generate", [seed, queries], round_=2))
    policy = downgrade(store, add_model(store, later, round_=2))
    there = publish(policy, config_for(store), page_of)
    sent = json.loads(connected.read("alice/demo-policy", "manifest.json", "round-002", "model"))
    assert (sent["format"], sent["pipeline"], sent["stage"], sent["kind"]) == (2, "grace-kto", "policy", "model")
    commits = connected.repo("alice/demo-queries").tags
    sent = json.loads(connected.read("alice/demo-queries", "manifest.json", "round-002"))
    parents = [(p["stage"], p["kind"], p["round"], p["revision"]) for p in sent["parents"]]
    seeds = connected.repo("alice/demo-seed").tags["round-000"]
    assert parents == [("seed", "dataset", None, seeds), ("generate", "dataset", 1, commits["round-001"])]
    assert sent["configuration"].keys() >= {"generate", "engines.policy", "random_seed"}
    assert publish(policy, config_for(store), page_of) == there | {"uploaded": False}


def test_a_revision_of_format_1_is_a_parent_of_format_2(connected: HubServer, store: Store, empty: Store) -> None:
    commits = published_by_the_version_before(connected, store)
    scores = pull(Ref("alice/demo-scores", commits["demo-scores round-001"]), empty)
    mine = add_dataset(empty, "calibrate", [scores], name="mine")
    publish(mine, config_for(empty), page_of, parents=False)
    sent = Manifest.model_validate_json(connected.read("alice/mine-weights", "manifest.json", "round-001"))
    assert sent.parents == [parent_of(scores)] and sent.parents[0].revision == commits["demo-scores round-001"]


def test_a_copy_of_a_revision_of_format_1_keeps_its_name(store: Store, tmp_path: Path) -> None:
    made = downgrade(store, add_dataset(store, "sample"))
    shutil.copytree(made.path, tmp_path / "copy")
    copy = open_revision(str(tmp_path / "copy"), store)
    assert (copy.repo, copy.revision, copy.digest) == (made.repo, made.revision, made.digest)
    assert copy.made_here and store.find(copy.repo, copy.revision) == made
