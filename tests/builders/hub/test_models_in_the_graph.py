"""Models that stages made, on the Hub: published as parents, named by their commits, traced and pulled by others."""

import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from datasets_factory import add_dataset, add_model, model_of, plain_frame, scores_frame, weights_frame
from hub_server import HubServer
from huggingface_hub import constants
from store_chains import config_for, files_of, parent_of

from builders.hub import publish as module
from builders.hub.commit import Release
from builders.hub.publish import publish
from builders.hub.pull import pull
from builders.inspect.lineage import FOUND, lineage
from builders.inspect.verify import verify
from builders.settings.base import executions, identities
from builders.store.manifest import Kind, Manifest, Parent
from builders.store.ref import Ref, round_tag
from builders.store.revision import Revision
from builders.store.store import Store
from scorers.errors import UserError
from training.grace_kto.pipeline import GRACE_KTO
from training.pipelines import PIPELINES, load_config, page_of

pytestmark = pytest.mark.slow

COMMIT = "0123456789abcdef0123456789abcdef01234567"
Made = dict[tuple[str, int], Revision]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store of somebody else, who has nothing yet; nor has the cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return Store(tmp_path / "empty")


def recorded(stage: str, roles: Mapping[str, Revision]) -> dict[str, Any]:
    """What the runner writes into the manifest of a stage of the tiny preset, beside parents and data."""
    found, config = GRACE_KTO.stage(stage), load_config("tiny")
    return {
        "models": {role: model_of(filled) for role, filled in roles.items()},
        "configuration": identities(config, found.sections),
        "execution": executions(config, found.sections),
        "bytes_depend_on": list(found.bytes_depend_on(config)) if found.bytes_depend_on else [],
    }


def model(store: Store, stage: str, parents: Sequence[Revision], round_: int = 0, **roles: Revision) -> Revision:
    """A model as its stage makes it; the models in its roles are among the parents."""
    name = "grace-kto-world-0" if stage.startswith("world:") else "demo"
    repo = f"local/{name}-{GRACE_KTO.stage(stage).suffix}"
    return add_model(store, repo, round_=round_, stage=stage, parents=parents, **recorded(stage, roles))


def dataset(
    store: Store, stage: str, parents: Sequence[Revision], round_: int = 0, frame: pl.DataFrame | None = None,
    **roles: Revision,
) -> Revision:  # fmt: skip
    """A dataset as its stage makes it; the models in its roles are among the parents."""
    rows = plain_frame(GRACE_KTO.stage(stage).columns) if frame is None else frame
    return add_dataset(store, stage, rows, round_=round_, parents=parents, **recorded(stage, roles))


def two_rounds(store: Store, rounds: int = 2) -> Made:
    """Every revision of two rounds of the tiny preset, each with all its parents."""
    made: Made = {("seed", 0): (seed := dataset(store, "seed", []))}
    for name in ("base", "general", "bge-m3"):
        made[f"world:{name}", 0] = model(store, f"world:{name}", [])
    made["world:domain", 0] = model(store, "world:domain", [made["world:general", 0]])
    base, general, domain, relevance = (made[f"world:{n}", 0] for n in ("base", "general", "domain", "bge-m3"))
    made["sft", 0] = sft = policy = model(store, "sft", [seed, base], base=base)
    scorers = {"tokenizer": base, "general": general, "domain": domain, "relevance": relevance}
    scores = scores_frame()
    weights = weights_frame(scores, load_config("tiny").calibrate.coefficients)
    groups = scores.select(column.name for column in GRACE_KTO.stage("sample").columns)
    for r in range(1, rounds + 1):
        earlier = [made["generate", e] for e in range(1, r)]
        made["generate", r] = dataset(store, "generate", [seed, *earlier, policy], r, policy=policy)
        made["sample", r] = dataset(store, "sample", [made["generate", r], policy], r, groups, policy=policy)
        made["score", r] = dataset(store, "score", [made["sample", r], *scorers.values()], r, scores, **scorers)
        made["calibrate", r] = dataset(store, "calibrate", [made["score", r]], r, weights)
        above = [made["calibrate", r], sft] if policy == sft else [made["calibrate", r], sft, policy]
        made["policy", r] = policy = model(store, "policy", above, r, base=sft, policy=policy)
    return made


def kind_of(revision: Revision) -> Kind:
    assert revision.manifest is not None
    return revision.manifest.kind


def on_hub(revision: Revision) -> str:
    """Where alice publishes a revision."""
    return f"alice/{revision.repo.removeprefix('local/')}"


def commits_of(hub: HubServer, made: Mapping[tuple[str, int], Revision]) -> dict[tuple[str, int], str]:
    """The commit under the tag of each revision."""
    return {
        (stage, round_): hub.repo(on_hub(revision), kind_of(revision)).tags[round_tag(round_)]
        for (stage, round_), revision in made.items()
    }


def test_everything_a_policy_was_made_from_is_published_before_it(connected: HubServer, store: Store) -> None:
    made = two_rounds(store)
    there = publish(made["policy", 2], config_for(store), page_of)
    commits = commits_of(connected, made)
    assert there["revision"] == commits["policy", 2]
    assert there["url"] == f"{connected.endpoint}/alice/demo-policy/tree/{there['revision']}"
    steps = connected.log.of("commit", "tag")
    tagged = {(str(e.repo), e.path.rsplit("/", 1)[1]): i for i, e in enumerate(steps) if e.route == "tag"}
    assert len(tagged) == len(made) == len(commits)
    for (stage, round_), revision in made.items():
        repo = f"{kind_of(revision)}:{on_hub(revision)}"
        place = tagged[repo, commits[stage, round_]]
        assert (steps[place - 1].route, steps[place - 1].repo) == ("commit", repo)
        manifest = Manifest.model_validate_json(
            connected.read(on_hub(revision), "manifest.json", round_tag(round_), kind_of(revision))
        )
        assert [tagged[f"{p.kind}:{p.repo}", p.revision] < place - 1 for p in manifest.parents] == [True] * len(
            manifest.parents
        )


def test_manifests_and_cards_name_the_commits_of_models_in_every_place(connected: HubServer, store: Store) -> None:
    made = two_rounds(store)
    publish(made["policy", 2], config_for(store), page_of)
    commits = commits_of(connected, made)
    place = {made[key].revision: (on_hub(made[key]), commit) for key, commit in commits.items()}
    for (_, round_), revision in made.items():
        local = revision.manifest
        assert local is not None
        sent = connected.read(on_hub(revision), "manifest.json", round_tag(round_), local.kind)
        card = connected.read(on_hub(revision), "README.md", round_tag(round_), local.kind).decode()
        value = json.loads(sent)
        assert (value["format"], value["pipeline"], value["kind"]) == (2, "grace-kto", local.kind)
        assert (value["execution"], value["bytes_depend_on"]) == (local.execution, local.bytes_depend_on)
        assert value["repo"] == on_hub(revision) and value["digest"] == revision.digest
        for before, after in zip(local.parents, value["parents"], strict=True):
            repo, commit = place[before.revision]
            assert after == before.model_dump() | {"repo": repo, "revision": commit}
            prefix = "datasets/" if before.kind == "dataset" else ""
            assert f"(https://huggingface.co/{prefix}{repo}/tree/{commit})" in card
        assert value["models"].keys() == local.models.keys()
        for role, before_model in local.models.items():
            repo, commit = place[before_model.revision]
            assert value["models"][role] == {"id": repo, "revision": commit}
        assert b"local/" not in sent and "(local)" not in card  # only the rows keep the names of the store
    last = json.loads(connected.read("alice/demo-queries", "manifest.json", "round-002"))
    parents = [(p["stage"], p["kind"], p["round"]) for p in last["parents"]]
    assert parents == [("seed", "dataset", 0), ("generate", "dataset", 1), ("policy", "model", 1)]
    scores = json.loads(connected.read("alice/demo-scores", "manifest.json", "round-001"))
    assert scores["execution"] == {
        "score": {"device": "cpu", "memory_share": 0.3, "tokens_per_batch": 8192, "texts_per_batch": 32}
    }
    assert scores["bytes_depend_on"] == ["kind of processor", "score.tokens_per_batch", "score.texts_per_batch"]


def test_without_parents_unpublished_datasets_and_models_are_named(connected: HubServer, store: Store) -> None:
    made = two_rounds(store, rounds=1)
    scores, config = made["score", 1], config_for(store)
    world = [made[f"world:{name}", 0] for name in ("base", "general", "domain", "bge-m3")]

    def refused() -> str:
        with pytest.raises(UserError) as caught:
            publish(scores, config, page_of, parents=False)
        return str(caught.value)

    def named(missing: Sequence[Revision]) -> str:
        return (
            "dataset alice/demo-scores: not published, since --no-parents was given and these parents are only in the "
            f"store: {', '.join(map(str, missing))}; publish them first, or leave --no-parents out"
        )

    assert refused() == named([made["sample", 1], *world])
    assert connected.hub.store.repos == {}
    publish(made["sample", 1], config, page_of)  # and with it the base model, which the first policy was tuned from
    assert refused() == named(world[1:])
    for missing in world[1:]:
        publish(missing, config, page_of, parents=False)
    assert publish(scores, config, page_of, parents=False)["uploaded"]


def test_a_second_push_looks_up_and_a_later_stage_sends_itself_alone(connected: HubServer, store: Store) -> None:
    made = two_rounds(store)
    first = publish(made["policy", 1], config_for(store), page_of)
    connected.log.clear()
    assert publish(made["policy", 1], config_for(store), page_of) == first | {"uploaded": False}
    assert publish(made["world:domain", 0], config_for(store), page_of)["uploaded"] is False
    assert {entry.route for entry in connected.log.of()} == {"whoami", "refs", "tree"}
    assert connected.log.uploaded() == 0
    connected.log.clear()
    assert publish(made["generate", 2], config_for(store), page_of)["uploaded"]
    assert [entry.repo for entry in connected.log.of("commit", "tag")] == ["dataset:alice/demo-queries"] * 2


def test_private_holds_for_the_models_too(connected: HubServer, store: Store) -> None:
    publish(two_rounds(store, rounds=1)["policy", 1], config_for(store), page_of, private=True)
    assert {repo.private for repo in connected.hub.store.repos.values()} == {True}
    assert {kind for kind, _ in connected.hub.store.repos} == {"dataset", "model"}


def test_a_base_model_given_by_name_is_published_with_the_model_that_needs_it(
    connected: HubServer, store: Store
) -> None:
    first = add_model(store, "local/given", round_=0)
    weights = dataset(store, "calibrate", [], 1, weights_frame(scores_frame()))
    tuned = model(store, "policy", [weights], 1, base=first, policy=first)
    with pytest.raises(UserError, match=f"only in the store: {weights}, {first}; publish them first"):
        publish(tuned, config_for(store), page_of, parents=False)
    assert connected.hub.store.repos == {}
    publish(tuned, config_for(store), page_of)
    sent = Manifest.model_validate_json(connected.read("alice/demo-policy", "manifest.json", "round-001", "model"))
    commit = connected.repo("alice/given", "model").tags["round-000"]
    assert {role: str(found) for role, found in sent.models.items()} == {
        "base": f"alice/given@{commit}",
        "policy": f"alice/given@{commit}",
    }
    assert [parent.stage for parent in sent.parents] == ["calibrate"]


def test_a_model_parent_that_is_nowhere_is_refused_before_anything_is_sent(connected: HubServer, store: Store) -> None:
    seed = dataset(store, "seed", [])
    gone = Parent(stage="sft", kind="model", round=0, repo="local/gone", revision=COMMIT, digest="0" * 64)
    queries = plain_frame(GRACE_KTO.stage("generate").columns)
    child = add_dataset(store, "generate", queries, parents=[seed, gone])
    with pytest.raises(UserError, match=f"parent local/gone@{COMMIT} is neither .*; build it from a model that is"):
        publish(child, config_for(store), page_of)
    lost = add_dataset(store, "generate", queries, round_=2, parents=[gone.model_copy(update={"repo": "alice/gone"})])
    with pytest.raises(UserError, match=f"model alice/gone@{COMMIT}: not found"):
        publish(lost, config_for(store), page_of)
    assert connected.hub.store.repos == {}


def test_a_damaged_model_stops_the_push_of_what_was_made_from_it(connected: HubServer, store: Store) -> None:
    made = two_rounds(store, rounds=1)
    weights = made["sft", 0].path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"local/demo-sft@.*: model\.safetensors is damaged"):
        publish(made["policy", 1], config_for(store), page_of)
    assert ("model", "alice/demo-sft") not in connected.hub.store.repos
    assert ("dataset", "alice/demo-queries") not in connected.hub.store.repos


def test_a_loop_of_more_rounds_than_the_stack_is_deep(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each round's queries come from the policy of the round before, so all rounds are one chain."""
    released: dict[str, str] = {}

    def release(wanted: Release, *, private: bool) -> tuple[str, bool]:
        released[f"{wanted.repo} {wanted.tag}"] = commit = f"{len(released):040x}"
        return commit, True

    monkeypatch.setattr(module, "writable_namespace", lambda namespace: namespace)
    monkeypatch.setattr(module, "find_release", lambda wanted: released.get(f"{wanted.repo} {wanted.tag}"))
    monkeypatch.setattr(module, "release_commit", release)
    policy = model(store, "sft", [])
    for round_ in range(1, 31):
        queries = dataset(store, "generate", [policy], round_, policy=policy)
        policy = model(store, "policy", [queries, policy], round_, policy=policy)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 200)  # so that sixty revisions one above the other are many
    try:
        publish(policy, config_for(store, "alice"), page_of)
    finally:
        sys.setrecursionlimit(limit)
    chain = [f"alice/demo-{name} {round_tag(round_)}" for round_ in range(1, 31) for name in ("queries", "policy")]
    assert list(released) == ["alice/demo-sft round-000", *chain]


# what somebody else does with it


def test_lineage_goes_through_published_models_back_to_the_world(
    connected: HubServer, store: Store, empty: Store
) -> None:
    made = two_rounds(store)
    there = publish(made["policy", 2], config_for(store), page_of)
    commits = commits_of(connected, made)
    connected.log.clear()
    nodes = lineage("alice/demo-policy", empty)
    found = {(str(node.stage), int(str(node.round))): node for node in nodes}
    assert found.keys() == made.keys() and len(nodes) == len(made)
    for key, node in found.items():
        revision = made[key]
        assert revision.manifest is not None
        expected = (FOUND, kind_of(revision), on_hub(revision), commits[key], revision.digest)
        assert (node.state, node.kind, node.repo, node.revision, node.digest) == expected
        assert node.rows == revision.manifest.rows.written

    def id_of(stage: str, round_: int) -> str:
        return f"{kind_of(made[stage, round_])}:{on_hub(made[stage, round_])}@{commits[stage, round_]}"

    assert nodes[0].revision == there["revision"] and nodes[0].id == id_of("policy", 2)
    assert found["policy", 2].parents == {name: id_of(name, r) for name, r in (("calibrate", 2), ("sft", 0))} | {
        "policy": id_of("policy", 1)
    }
    assert found["generate", 2].models == {"policy": id_of("policy", 1)}
    assert found["score", 2].models["domain"] == found["score", 2].parents["world:domain"] == id_of("world:domain", 0)
    assert found["world:domain", 0].parents == {"world:general": id_of("world:general", 0)}
    assert found["sft", 0].models == {"base": id_of("world:base", 0)}
    fetched = [entry.path.rsplit("/", 1)[1] for entry in connected.log.of("resolve_get")]
    assert fetched == ["manifest.json"] * len(made)
    assert not empty.root.exists()


def test_every_model_of_the_graph_can_be_pulled_and_is_whole(connected: HubServer, store: Store, empty: Store) -> None:
    made = two_rounds(store, rounds=1)
    publish(made["policy", 1], config_for(store), page_of)
    for (_, round_), revision in made.items():
        pulled = pull(Ref(on_hub(revision), round_tag(round_)), empty, kind_of(revision))
        assert pulled.digest == revision.digest and not pulled.made_here
        assert files_of(pulled.path).keys() == files_of(revision.path).keys()
        assert verify(pulled, PIPELINES) == []
        assert pulled.manifest is not None
        for parent in pulled.manifest.parents:
            assert pull(Ref(parent.repo, parent.revision), empty, parent.kind).digest == parent.digest


def test_a_pulled_model_is_a_parent_that_is_published_already(connected: HubServer, store: Store, empty: Store) -> None:
    made = two_rounds(store, rounds=1)
    there = publish(made["policy", 1], config_for(store), page_of)
    policy = pull(Ref("alice/demo-policy", "round-001"), empty, "model")
    seed = pull(Ref("alice/demo-seed", "round-000"), empty)
    mine = dataset(empty, "generate", [seed, policy], 2, policy=policy)
    connected.log.clear()
    assert publish(mine, config_for(empty), page_of, parents=False)["uploaded"]
    sent = Manifest.model_validate_json(connected.read("alice/demo-queries", "manifest.json", "round-002"))
    assert str(sent.models["policy"]) == f"alice/demo-policy@{there['revision']}"
    assert sent.parents == [parent_of(seed), parent_of(policy)]
    assert [entry.repo for entry in connected.log.of("commit", "tag")] == ["dataset:alice/demo-queries"] * 2
