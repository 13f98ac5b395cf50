"""A dataset of the Hub, or a folder like one, as the source of the seeds: resolved once, and part of their lineage."""

import json
from pathlib import Path
from typing import Any

import pytest
from hub_clients import push
from hub_server import HubServer
from huggingface_hub import HfApi
from store_chains import config_for

from builders.core.given import with_source
from builders.core.nodes import Node
from builders.core.plan import Inputs
from builders.core.run import run
from builders.core.runner import StageResult
from builders.core.stage import Source
from builders.hub.publish import publish
from builders.inspect.lineage import EXTERNAL, lineage
from builders.report.lineage import lineage_rows
from builders.store.manifest import Manifest
from builders.store.store import Store
from scorers.errors import UserError
from training.grace_kto.pipeline import GRACE_KTO
from training.pipelines import build, load_config, page_of, plan

REPO = "somebody/essays"


def lines(*queries: str) -> bytes:
    return "".join(json.dumps({"query": query}) + "\n" for query in queries).encode()


@pytest.fixture
def api(connected: HubServer) -> HfApi:
    connected.add_token("hf_somebody", "somebody")
    api = HfApi(endpoint=connected.endpoint, token="hf_somebody")
    api.create_repo(REPO, repo_type="dataset")
    return api


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def config_of(store: Store, source: object, *overrides: str) -> Any:
    return load_config("tiny", [f"seed.source={source}", "seed.columns={query: query}", *overrides], str(store.root))


def seed(store: Store, source: object, *overrides: str) -> tuple[StageResult, list[str]]:
    """Build the seeds; the result and the queries."""
    (result,) = build(config_of(store, source, *overrides), "seed")
    return result, result.revision.scan().collect()["query"].to_list()


def manifest_of(result: StageResult) -> Manifest:
    assert result.revision.manifest is not None
    return result.revision.manifest


def test_a_source_that_may_move_is_refused_where_it_must_not(
    connected: HubServer, api: HfApi, store: Store, tmp_path: Path
) -> None:
    commit = push(api, REPO, {"train.jsonl": lines("Write A.")})
    api.create_tag(REPO, tag="v1", repo_type="dataset")
    for name, said in ((REPO, "not the newest"), (f"{REPO}@main", "not main, which is a branch")):
        with pytest.raises(UserError, match=f"--require-pinned takes a tag or a 40-hex commit, {said}"):
            build(config_of(store, name), "seed", require_pinned=True)
    assert not store.repo_path("local/tiny-seeds").exists()
    (tmp_path / "own.jsonl").write_bytes(lines("Write A."))
    for source in (f"{REPO}@v1", f"{REPO}@{commit}", tmp_path / "own.jsonl"):
        (result,) = build(config_of(store, source), "seed", require_pinned=True)
        assert result.revision.scan().collect()["query"].to_list() == ["Write A."]


def test_a_branch_that_moves_while_the_seeds_are_built(
    connected: HubServer, api: HfApi, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = push(api, REPO, {"train.jsonl": lines("Write A.", "Write B.")})

    def moved(inputs: Inputs, store: Store) -> Inputs:
        push(api, REPO, {"train.jsonl": lines("Write C.")})
        return with_source(inputs, store)

    monkeypatch.setattr("builders.core.runner.with_source", moved)
    result, queries = seed(store, REPO, "seed.shard_rows=1")
    assert queries == ["Write A.", "Write B."] and len(result.revision.data_files()) == 2
    (parent,) = manifest_of(result).parents
    assert (parent.stage, parent.kind, parent.repo, parent.revision) == ("source", "dataset", REPO, first)


def test_a_moved_branch_makes_the_seeds_stale_and_is_told(connected: HubServer, api: HfApi, store: Store) -> None:
    first = push(api, REPO, {"train.jsonl": lines("Write A.")})
    seed(store, REPO)
    connected.log.clear()
    again, _ = seed(store, REPO)
    assert not again.built and connected.log.count("resolve_get") == 0
    second = push(api, REPO, {"train.jsonl": lines("Write B.")})
    (told,) = plan(config_of(store, REPO), "seed")
    assert (told.action, told.reason) == ("build", f"source moved: {REPO} from {first} to {second}")
    result, queries = seed(store, REPO)
    assert result.built and result.reason == told.reason and queries == ["Write B."]
    # A pinned source stays what it is.
    pinned, queries = seed(store, f"{REPO}@{first}")
    assert pinned.reason == "configuration changed: seed.source" and queries == ["Write A."]


def test_runs_of_one_command_share_what_was_resolved(connected: HubServer, api: HfApi, store: Store) -> None:
    push(api, REPO, {"train.jsonl": lines("Write A.")})
    config, sources = config_of(store, REPO), dict[Node, Source | None]()
    run(GRACE_KTO, config, "seed", sources=sources)
    push(api, REPO, {"train.jsonl": lines("Write B.")})
    (later,) = run(GRACE_KTO, config, "seed", round_=2, sources=sources)
    assert later.reason == "fresh"
    (other,) = run(GRACE_KTO, config, "seed")
    assert other.reason.startswith("source moved: ")


def test_seeds_are_lineage_and_their_card_names_the_commit(connected: HubServer, api: HfApi, store: Store) -> None:
    commit = push(api, REPO, {"train.jsonl": lines("Write A."), "test.jsonl": lines("Write B.")})
    result, queries = seed(store, REPO, "seed.split=test")
    assert queries == ["Write B."]
    nodes = lineage(str(result.revision), store)
    assert [(node.repo, node.revision, node.state) for node in nodes[1:]] == [(REPO, commit, EXTERNAL)]
    assert nodes[0].parents == {"source": f"dataset:{REPO}@{commit}"}
    assert f"{REPO}@{commit[:12]}" in lineage_rows(nodes)[1][1]
    card = (result.revision.path / "README.md").read_text()
    assert f"/datasets/{REPO}/tree/{commit}), split `test` |" in card
    assert f"source: {REPO}@{commit}" in card and "split: test" in card and f"- {REPO}\n" in card
    published = publish(result.revision, config_for(store), page_of)
    manifest = json.loads(connected.read("alice/tiny-seed", "manifest.json", published["revision"]))
    assert [(p["stage"], p["repo"], p["revision"], p["split"]) for p in manifest["parents"]] == [
        ("source", REPO, commit, "test")
    ]


def test_a_published_dataset_of_this_project_is_a_source_with_its_own_lineage(
    connected: HubServer, api: HfApi, store: Store, tmp_path: Path
) -> None:
    push(api, REPO, {"train.jsonl": lines("Write A.")})
    made, _ = seed(store, REPO)
    published = publish(made.revision, config_for(store), page_of)
    other = Store(tmp_path / "other")
    result, queries = seed(other, published["repo"])
    (parent,) = manifest_of(result).parents
    assert queries == ["Write A."]
    assert (parent.repo, parent.revision, parent.digest) == (
        published["repo"],
        published["revision"],
        made.revision.digest,
    )
    assert [node.stage for node in lineage(str(result.revision), other)] == ["seed", "seed", None]


def test_a_folder_is_a_source_by_the_content_of_its_split(store: Store, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    clone.mkdir()
    (clone / "train.csv").write_text("query\nWrite A.\n")
    (clone / "test.csv").write_text("query\nWrite B.\n")
    result, queries = seed(store, clone)
    assert queries == ["Write A."] and manifest_of(result).parents == []
    assert seed(store, clone, "seed.split=test")[1] == ["Write B."]
    assert seed(store, clone)[0].built
    (clone / "test.csv").write_text("query\nWrite C.\n")
    assert not seed(store, clone)[0].built
    (clone / "train.csv").write_text("query\nWrite D.\n")
    assert seed(store, clone)[1] == ["Write D."]
    with pytest.raises(UserError, match=r"no split dev; it has train, test; choose .* the seeds with seed\.split"):
        seed(store, clone, "seed.split=dev")
