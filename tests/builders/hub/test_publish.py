"""Publishing: what stands under a tag, what is sent, what is refused."""

import json
import shutil
import stat
from contextlib import ExitStack
from pathlib import Path

import pytest
from forks import PROGRAMS, Done, Forks
from hub_clients import TOKEN, client, environment
from hub_server import HubServer, RemoteHub
from huggingface_hub import HfApi, constants
from store_chains import ROUND_STAGES, add_dataset, add_model, add_rounds, config_for, files_of

from builders.cards.render import write_card
from builders.hub.publish import publish, publish_all, push
from builders.inspect.lineage import FOUND, NOT_FOUND, lineage
from builders.store.manifest import Manifest, content_digest, describe_files
from builders.store.ref import round_tag
from builders.store.revision import Revision
from builders.store.store import Store
from scorers.errors import UserError
from training.pipelines import page_of, whole_run

PUBLISH = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from store_chains import add_rounds, config_for
from builders.hub.publish import publish
from builders.store.store import Store
from training.pipelines import page_of
store = Store(Path(sys.argv[1]))
made = add_rounds(store)
for key in [("policy", 1), ("policy", 2)]:
    publish(made[key], config_for(store), page_of)
"""
READ = """
import json
import sys
from pathlib import Path
from datasets import load_dataset
from huggingface_hub import snapshot_download
from safetensors import safe_open
found = {}
for name, tag in json.loads(sys.argv[1]):
    rows = load_dataset(f"alice/demo-{name}", revision=tag, split="train")
    stream = load_dataset(f"alice/demo-{name}", revision=tag, split="train", streaming=True)
    found[f"{name} {tag}"] = [rows.num_rows, rows["query"][0], [row["query"] for row in stream] == rows["query"][:]]
for tag in ("round-001", "round-002"):
    folder = Path(snapshot_download("alice/demo-policy", revision=tag))
    with safe_open(folder / "adapter_model.safetensors", "np") as file:
        found[tag] = float(file.get_tensor("lora_A.weight")[0, 0])
print(json.dumps(found))
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def tree(hub: HubServer, repo: str, revision: str, kind: str = "dataset") -> dict[str, bytes]:
    """Every file of a revision on the Hub but its .gitattributes."""
    names = hub.commit(repo, revision, kind).files
    return {name: hub.read(repo, name, revision, kind) for name in names if name != ".gitattributes"}


def data_of(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if name.startswith("data/")}


@pytest.mark.slow
@pytest.mark.parametrize("xet", [False, True], ids=["lfs", "default"])
def test_two_rounds_load_by_tag_and_stream_in_a_fresh_process(remote: RemoteHub, tmp_path: Path, xet: bool) -> None:
    support = str(Path(__file__).parents[2] / "support")
    client(PUBLISH, environment(remote.endpoint, tmp_path / "writer", xet), str(tmp_path / "store"), support)
    assert (remote.log.count("lfs_put") == 0) == xet and (remote.log.count("xet_shard") > 0) == xet
    names = [("seed", "round-000")]
    names += [(name, round_tag(r)) for r in (1, 2) for name in ("queries", "groups", "scores", "weights")]
    read = json.loads(client(READ, environment(remote.endpoint, tmp_path / "reader", xet), json.dumps(names)))
    for name, tag in names:
        round_ = "" if name == "seed" else f" ({int(tag[6:])})"
        assert read[f"{name} {tag}"] == [9, f"Write a report.{round_} 0", True]
    assert (read["round-001"], read["round-002"]) == (1.0, 2.0)


def test_parents_come_first_and_manifest_and_card_name_their_commits(connected: HubServer, store: Store) -> None:
    made = add_rounds(store, rounds=1)
    there = publish(made["policy", 1], config_for(store), page_of)
    commits = {repo.id: repo.tags for repo in connected.hub.store.repos.values()}
    assert {repo: set(tags) for repo, tags in commits.items()} == {
        "alice/demo-seed": {"round-000"},
        **{f"alice/demo-{name}": {"round-001"} for name in ("queries", "groups", "scores", "weights", "policy")},
    }
    assert there["revision"] == commits["alice/demo-policy"]["round-001"] and there["uploaded"]
    assert there["url"] == f"{connected.endpoint}/alice/demo-policy/tree/{there['revision']}"
    chain = [("weights", "dataset"), ("scores", "dataset"), ("groups", "dataset"), ("queries", "dataset")]
    for (name, kind), parent in zip(chain, ["scores", "groups", "queries", "seed"], strict=True):
        files = tree(connected, f"alice/demo-{name}", "round-001", kind)
        manifest = Manifest.model_validate_json(files["manifest.json"])
        stage = {"seed": "seed", "queries": "generate", "groups": "sample", "scores": "score"}[parent]
        local = made[stage, 0 if parent == "seed" else 1]
        expected = next(iter(commits[f"alice/demo-{parent}"].values()))
        assert (manifest.repo, manifest.parents[0].repo) == (f"alice/demo-{name}", f"alice/demo-{parent}")
        assert (manifest.parents[0].revision, manifest.parents[0].digest) == (expected, local.digest)
        assert f"/datasets/alice/demo-{parent}/tree/{expected}" in files["README.md"].decode()
    weights = tree(connected, "alice/demo-weights", "round-001")
    local_files = files_of(made["calibrate", 1].path)
    assert data_of(weights) == data_of(local_files)
    figures = {name: content for name, content in local_files.items() if name.endswith(".png")}
    assert len(figures) == 2 and figures.items() <= weights.items()
    assert Manifest.model_validate_json(weights["manifest.json"]).digest == made["calibrate", 1].digest


def test_one_commit_for_a_revision_of_many_files(connected: HubServer, store: Store) -> None:
    publish(add_dataset(store, "calibrate"), config_for(store), page_of)
    history = connected.repo("alice/demo-weights").history("main")
    assert [commit.title for commit in history] == ["calibrate round-001", "initial commit"]
    assert f"content digest {store.latest('local/demo-weights').digest}" in history[0].message  # type: ignore[union-attr]


def test_the_same_content_again_is_looked_up_and_not_sent(connected: HubServer, store: Store) -> None:
    made = add_rounds(store, rounds=1)
    first = publish(made["calibrate", 1], config_for(store), page_of)
    connected.log.clear()
    again = publish(made["calibrate", 1], config_for(store), page_of)
    assert again == first | {"uploaded": False}
    routes = {entry.route for entry in connected.log.of()}
    assert routes == {"whoami", "refs", "tree"} and connected.log.uploaded() == 0


def test_an_older_round_is_found_when_the_head_moved_on(connected: HubServer, store: Store) -> None:
    made = [add_dataset(store, "sample", round_=round_) for round_ in (1, 2)]
    first, second = (publish(revision, config_for(store), page_of) for revision in made)
    connected.log.clear()
    assert publish(made[0], config_for(store), page_of)["revision"] == first["revision"] != second["revision"]
    assert connected.log.count("commit", "lfs_put", "preupload") == 0


def test_a_tag_with_other_data_is_refused_and_stays(connected: HubServer, store: Store) -> None:
    first = publish(add_dataset(store, "sample"), config_for(store), page_of)
    other = add_dataset(store, "sample", text="Write a poem.")
    with pytest.raises(UserError, match=r"demo-groups: tag round-001 .* other data .* tags never move; publish under"):
        publish(other, config_for(store), page_of)
    assert connected.repo("alice/demo-groups").tags == {"round-001": first["revision"]}
    assert len(connected.repo("alice/demo-groups").commits) == 2


def test_without_parents_the_unpublished_ones_are_named(connected: HubServer, store: Store) -> None:
    made = add_rounds(store, rounds=1)
    with pytest.raises(UserError, match=f"only in the store: {made['generate', 1]}; publish them first"):
        publish(made["sample", 1], config_for(store), page_of, parents=False)
    assert connected.hub.store.repos == {}
    publish(made["generate", 1], config_for(store), page_of)
    assert publish(made["sample", 1], config_for(store), page_of, parents=False)["uploaded"]


def test_stale_shards_go_in_the_same_commit_and_other_files_stay(connected: HubServer, store: Store) -> None:
    publish(add_dataset(store, "sample"), config_for(store), page_of)
    api = HfApi(endpoint=connected.endpoint, token=TOKEN)
    for path in ("data/train-00002-of-00003.parquet", "notes.txt"):
        api.upload_file(path_or_fileobj=b"old", path_in_repo=path, repo_id="alice/demo-groups", repo_type="dataset")
    second = add_dataset(store, "sample", round_=2)
    publish(second, config_for(store), page_of)
    files = tree(connected, "alice/demo-groups", "round-002")
    assert data_of(files) == data_of(files_of(second.path)) and files["notes.txt"] == b"old"
    assert len(connected.repo("alice/demo-groups").history("main")) == 5


def test_only_shards_that_are_new_are_sent(connected: HubServer, store: Store) -> None:
    first = add_dataset(store, "sample")
    publish(first, config_for(store), page_of)
    assert first.manifest is not None
    staged = store.root / ".work" / "half"
    (staged / "data").mkdir(parents=True)
    kept, changed = (file.path for file in first.manifest.files)
    (staged / kept).write_bytes((first.path / kept).read_bytes())
    other = add_dataset(store, "sample", round_=2)
    (staged / changed).write_bytes((other.path / changed).read_bytes())
    files = describe_files(
        staged, sorted((staged / "data").iterdir()), {f.path: f.rows or 0 for f in first.manifest.files}
    )
    manifest = first.manifest.model_copy(update={"round": 2, "files": files, "digest": content_digest(files)})
    write_card(manifest, staged, page_of(manifest), store)
    half = store.add(staged, manifest, ["half"])
    connected.log.clear()
    publish(half, config_for(store), page_of)
    assert [entry.content_bytes for entry in connected.log.of("lfs_put")] == [(half.path / changed).stat().st_size]


def test_models_given_by_name_are_published_first_and_named_by_their_commit(connected: HubServer, store: Store) -> None:
    """They are no parents in the manifest, since the configuration names them and no stage; but a stage made them."""
    policy = add_model(store, add_dataset(store, "calibrate"))
    groups = add_dataset(store, "sample", round_=2, policy=policy)
    with pytest.raises(UserError, match=f"only in the store: {policy}; publish them first"):
        publish(groups, config_for(store), page_of, parents=False)
    assert connected.hub.store.repos == {}
    publish(groups, config_for(store), page_of)
    commit = connected.repo("alice/demo-policy", "model").tags["round-001"]
    sent = Manifest.model_validate_json(connected.read("alice/demo-groups", "manifest.json", "round-002"))
    assert str(sent.models["policy"]) == f"alice/demo-policy@{commit}"


def test_two_rounds_published_as_they_are_made_resolve_for_somebody_else(
    connected: HubServer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The models that sampled and were trained on are given by name, so that no stage's parents lead to them."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    seed = add_dataset(store, "seed")
    policy = add_model(store, add_dataset(store, "calibrate", name="before"), name="first")
    for round_ in (1, 2):
        parent = seed
        for stage in ROUND_STAGES:
            parent = add_dataset(store, stage.name, [parent], round_=round_, policy=policy)
        publish(parent, config_for(store), page_of)  # build --stage calibrate --push
        policy = add_model(store, parent, round_=round_)
        publish(policy, config_for(store), page_of)  # train --push
    nodes = lineage("alice/demo-policy", Store(tmp_path / "empty"))
    states = {(node.repo, node.round): node.state for node in nodes}
    assert states.pop(("Qwen/Qwen2.5-0.5B", None)) == NOT_FOUND  # no Hub of this test has it
    names = [f"alice/demo-{name}" for name in ("queries", "groups", "scores", "weights", "policy")]
    expected = {(name, round_) for name in names for round_ in (1, 2)}
    expected |= {("alice/demo-seed", 0), ("alice/first-policy", 1), ("alice/before-weights", 1)}
    assert states == dict.fromkeys(expected, FOUND)


def test_a_model_that_is_neither_here_nor_on_the_hub_is_refused(connected: HubServer, store: Store) -> None:
    policy = add_model(store, add_dataset(store, "calibrate"))
    groups = add_dataset(store, "sample", round_=2, policy=policy)
    shutil.rmtree(policy.path)
    with pytest.raises(UserError, match=f"its model {policy} is neither on the Hub nor in the store"):
        publish(groups, config_for(store), page_of)
    assert connected.hub.store.repos == {}


def test_a_parent_that_the_store_lost_is_looked_up_by_tag_and_digest(connected: HubServer, store: Store) -> None:
    made = add_rounds(store, rounds=1)
    there = publish(made["generate", 1], config_for(store), page_of)
    shutil.rmtree(store.repo_path("local/demo-queries"))
    publish(made["sample", 1], config_for(store), page_of, parents=False)
    sent = Manifest.model_validate_json(connected.read("alice/demo-groups", "manifest.json", "round-001"))
    assert [(p.repo, p.revision) for p in sent.parents] == [("alice/demo-queries", there["revision"])]
    other = add_dataset(store, "generate", text="Write a poem.")
    groups = add_dataset(store, "sample", [other], text="Write a poem.", name="next")
    shutil.rmtree(store.repo_path("local/demo-queries"))
    with pytest.raises(UserError, match=f"its parent {other} is neither on the Hub nor in the store"):
        publish(groups, config_for(store), page_of)


def test_a_file_that_changed_since_it_was_made_is_not_sent(connected: HubServer, store: Store) -> None:
    made = add_dataset(store, "sample")
    shard = made.data_files()[1]
    shard.chmod(shard.stat().st_mode | stat.S_IWUSR)
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"train-00001-of-00002\.parquet is damaged: its SHA-256 is not the manifest"):
        publish(made, config_for(store), page_of)
    assert connected.log.count("commit", "lfs_put") == 0


def test_private_is_honoured_and_never_promised_for_a_public_repository(connected: HubServer, store: Store) -> None:
    publish(add_dataset(store, "sample"), config_for(store), page_of, private=True)
    assert connected.repo("alice/demo-groups").private
    publish(add_dataset(store, "score"), config_for(store), page_of)
    public = r"demo-scores: exists and is public; --private decides only when"
    with pytest.raises(UserError, match=public):
        publish(add_dataset(store, "score", round_=2), config_for(store), page_of, private=True)
    assert set(connected.repo("alice/demo-scores").tags) == {"round-001"}
    with pytest.raises(UserError, match=public):  # also where there is nothing to send
        publish(add_dataset(store, "score"), config_for(store), page_of, private=True)
    # A parent that is public is seen before anything is sent; one that is published already stays as it is.
    queries = add_dataset(store, "generate")
    later = add_dataset(store, "score", [queries], round_=3)
    weights = add_dataset(store, "calibrate", [later], round_=3)
    with pytest.raises(UserError, match=public):
        publish(weights, config_for(store), page_of, private=True)
    assert ("dataset", "alice/demo-queries") not in connected.hub.store.repos
    publish(later, config_for(store), page_of)
    assert publish(weights, config_for(store), page_of, private=True)["uploaded"]


def test_a_namespace_takes_the_place_of_the_users(connected: HubServer, store: Store) -> None:
    assert push("local/demo-groups", config_for(store, "acme"), page_of) if add_dataset(store, "sample") else None
    assert set(connected.repo("acme/demo-groups").tags) == {"round-001"} and connected.log.count("whoami") == 1


def test_a_copy_of_a_revision_is_pushed_as_that_revision(connected: HubServer, store: Store, tmp_path: Path) -> None:
    policy = add_model(store, add_dataset(store, "calibrate"))
    shutil.copytree(policy.path, tmp_path / "copy")
    there = push(str(tmp_path / "copy"), config_for(store), page_of)
    assert there["uploaded"] and there["repo"] == "alice/demo-policy"
    assert push("local/demo-policy", config_for(store), page_of) == there | {"uploaded": False}


def test_no_folder_of_this_machine_is_published(connected: HubServer, store: Store) -> None:
    made = add_dataset(store, "seed")
    assert made.manifest is not None
    staged = store.root / ".work" / "moved"
    (staged / "data").mkdir(parents=True)
    for name, content in data_of(files_of(made.path)).items():
        (staged / name).write_bytes(content)
    configuration = {"seed": {**made.manifest.configuration["seed"], "source": f"{store.root}/seeds.jsonl"}}
    execution = {"seed": {"scratch": f"{store.root}/scratch"}}
    manifest = made.manifest.model_copy(update={"configuration": configuration, "execution": execution})
    write_card(manifest, staged, page_of(manifest), store)
    publish(store.add(staged, manifest, ["moved"]), config_for(store), page_of)
    sent = b"".join(tree(connected, "alice/demo-seed", "round-000").values())
    assert b'"source": "seeds.jsonl"' in sent and b'"scratch": "scratch"' in sent
    assert str(store.root).encode() not in sent


def test_a_whole_run_goes_in_its_own_order(connected: HubServer, store: Store) -> None:
    add_rounds(store)
    add_dataset(store, "sample", name="another")
    config = config_for(store).model_copy(update={"name": "demo"})
    run = whole_run(config)
    order = ["seed 0", *(f"{s} {r}" for r in (1, 2) for s in ("generate", "sample", "score", "calibrate", "policy"))]
    assert [f"{r.manifest.stage} {r.manifest.round}" for r in run if r.manifest is not None] == order
    there = publish_all(run, config, page_of, parents=False)  # nothing is missing where each comes in its turn
    assert [found["uploaded"] for found in there] == [True] * len(run)
    assert "alice/another-groups" not in {repo for _, repo in connected.hub.store.repos}
    assert publish_all(run, config, page_of) == [found | {"uploaded": False} for found in there]
    assert whole_run(config.model_copy(update={"namespace": "acme"})) == run  # built before it was set
    with pytest.raises(UserError, match="holds nothing of none; `build` and `grace loop` make it"):
        whole_run(config.model_copy(update={"name": "none"}))


def test_what_has_no_manifest_or_no_origin_is_refused(connected: HubServer, store: Store, tmp_path: Path) -> None:
    made = add_dataset(store, "sample")
    plain = Revision("plain", "0" * 40, made.path, None)
    with pytest.raises(UserError, match=r"plain@0{40}: has no manifest"):
        publish(plain, config_for(store), page_of)
    orphan = add_dataset(store, "score", [plain_parent := Revision("file", "1" * 40, made.path, made.manifest)])
    with pytest.raises(UserError, match=f"parent {plain_parent} is neither on the Hub nor in the store"):
        publish(orphan, config_for(store), page_of)
    with pytest.raises(UserError, match="local/none: not in the store"):
        push("local/none", config_for(store), page_of)


def test_without_a_token_nothing_is_tried(
    connected: HubServer, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(tmp_path / "none-stored"))
    with pytest.raises(UserError, match="publishing needs a token with write rights"):
        publish(add_dataset(store, "sample"), config_for(store), page_of)
    assert connected.log.count() == 0


# the command line


@pytest.mark.slow
def test_commands_end_with_one_line_and_write_no_token(remote: RemoteHub, stack: ExitStack, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    add_dataset(store, "sample")
    add_dataset(store, "sample", name="a--b")
    add_dataset(store, "score", [add_dataset(store, "sample", name="kept")], name="kept")
    remote.add_token("hf_reader_secret", "alice", role="read")
    remote.add_token("hf_bob_secret", "bob")
    variables = environment(remote.endpoint, tmp_path / "home", xet=False)
    at = ["--store", str(store.root), "--config", "tiny"]
    people = stack.enter_context(Forks(variables, ("training.cli", "training.pipelines", "builders.hub.publish")))

    def grace(arguments: list[str], **others: str) -> Done:
        return people.run(PROGRAMS["grace"], arguments, tmp_path, **others)

    done = grace(["push", "local/demo-groups", *at, "--private", "--json"])
    assert done.returncode == 0, done.stderr
    there = json.loads(done.stdout.splitlines()[-1])
    assert set(there) == {"repo", "revision", "tag", "url", "uploaded"} and there["repo"] == "alice/demo-groups"
    pulled = grace(["pull", "alice/demo-groups@round-001", "--store", str(tmp_path / "other"), "--json"])
    assert f"alice/demo-groups at {there['revision']}\n" in pulled.stderr
    assert json.loads(pulled.stdout.splitlines()[-1])["revision"] == there["revision"]
    reader, bob, wrong = ({"HF_TOKEN": f"hf_{name}_secret"} for name in ("reader", "bob", "unknown"))
    cases = [
        (["push", "local/a--b-groups", *at], {}, "a--b-groups: the Hub does not allow this name"),
        (["push", "local/demo-groups", *at, "--set", "namespace=bob"], {}, "namespace bob: the token of alice"),
        (["push", "local/demo-groups", *at], reader, "the token may only read"),
        (["build", "--stage", "seed", "--push", *at], reader, "the token may only read"),
        (["push", *at], {}, "give a REF or --all"),
        (["push", "local/demo-groups", *at, "--set", "name=x"], wrong, "refuses the token"),
        (["push", "local/kept-scores", *at, "--no-parents"], {}, "only in the store: local/kept-groups@"),
        (["pull", "alice/none", *at], {}, "dataset alice/none: not found on"),
        (["pull", "alice/demo-groups@v9", *at], {}, "alice/demo-groups@v9: no such revision"),
        (["pull", "alice/demo-groups", *at], bob, "alice/demo-groups: not found on"),
        (["build", "--stage", "score", "--from", "alice/demo-groups@round-001", *at], bob, "not found on"),
    ]
    output = done.stdout + done.stderr + pulled.stdout + pulled.stderr
    for arguments, given, message in cases:
        refused = grace(arguments, **given)
        lines = refused.stderr.strip().splitlines()
        assert refused.returncode == 2 and lines[-1].startswith("error: ") and message in lines[-1], refused.stderr
        assert "Traceback" not in refused.stderr
        output += refused.stdout + refused.stderr
    add_dataset(store, "sample", round_=2)
    read_only = grace(["push", "local/demo-groups@round-002", *at], **reader)
    assert read_only.returncode == 2 and "the token may only read" in read_only.stderr
    written = b"".join(files_of(tmp_path).values()) + (output + read_only.stderr).encode()
    for token in (TOKEN, "hf_reader_secret", "hf_bob_secret", "hf_unknown_secret"):
        assert token.encode() not in written
