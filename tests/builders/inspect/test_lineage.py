"""`grace lineage`: the chain over two rounds, what is shared, missing, altered or circular."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets_factory import add_dataset, add_model, model_of, plain_frame, scores_frame
from hub_clients import TOKEN, push
from hub_server import HubServer
from huggingface_hub import HfApi, constants
from lineage_chains import DOMAIN, Chain, chain_of
from toy_pipeline import TOY, toy_config
from typer.testing import CliRunner

from builders.core.run import run
from builders.hub.client import NotOnHub
from builders.hub.listing import HubUnreachable
from builders.inspect import lineage as module
from builders.inspect.lineage import (
    ALTERED,
    EXTERNAL,
    FOUND,
    NOT_FOLLOWED,
    NOT_FOUND,
    UNREACHABLE,
    UNREADABLE,
    Node,
    lineage,
)
from builders.report.console import print_lineage
from builders.report.lineage import lineage_rows
from builders.store.manifest import Kind, Manifest, Model, Parent, read_manifest
from builders.store.revision import Revision
from builders.store.store import Store
from scorers.errors import UserError
from training.cli import app
from training.grace_kto.pipeline import GRACE_KTO

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def two_rounds(store: Store) -> Chain:
    return chain_of(store, 2)


def by_stage(nodes: list[Node]) -> dict[tuple[str | None, int | None], Node]:
    return {(node.stage, node.round): node for node in nodes}


def with_parents(store: Store, *parents: Parent, **changes: Any) -> Revision:
    return add_dataset(store, "score", scores_frame(), **({"parents": list(parents)} | changes))


def test_the_chain_of_two_rounds_is_complete(store: Store, two_rounds: Chain) -> None:
    nodes = lineage("local/demo-policy@round-002", store)
    found = by_stage(nodes)
    expected = {("seed", 0): two_rounds.seed, ("sft", 0): two_rounds.sft, **two_rounds.made}
    for key, revision in expected.items():
        node = found[key]
        assert (node.state, node.repo, node.revision, node.digest) == (
            FOUND,
            revision.repo,
            revision.revision,
            revision.digest,
        )
        assert revision.manifest is not None
        assert node.rows == revision.manifest.rows.written
    outside = [node for node in nodes if node.stage is None]
    assert [(node.repo, node.state, node.kind) for node in outside] == [("world:domain", EXTERNAL, "model")]
    assert len(nodes) == len(expected) + 1
    assert nodes[0].revision == two_rounds.made["policy", 2].revision


def test_shared_ancestors_appear_once_and_are_referenced(store: Store, two_rounds: Chain) -> None:
    nodes = lineage("local/demo-weights@round-002", store)
    ids = [node.id for node in nodes]
    assert len(set(ids)) == len(ids)
    assert {id_ for node in nodes for id_ in (*node.parents.values(), *node.models.values())} <= set(ids)
    found = by_stage(nodes)
    seed, sft = f"dataset:{two_rounds.seed}", f"model:{two_rounds.sft}"
    policy = f"model:{two_rounds.made['policy', 1]}"
    assert found["sft", 0].parents == {"seed": seed}
    assert found["generate", 1].parents == {"seed": seed, "sft": sft}
    queries = f"dataset:{two_rounds.made['generate', 1]}"
    assert found["generate", 2].parents == {"seed": seed, "generate": queries, "policy": policy}
    assert found["generate", 2].models == {"policy": policy}
    assert found["policy", 1].models["policy"] == found["score", 2].models["tokenizer"] == f"model:{two_rounds.sft}"


def test_a_parent_that_is_nowhere_stays_in_the_tree(store: Store) -> None:
    gone = Parent(stage="sample", kind="dataset", repo="local/demo-groups", revision=COMMIT, digest="c" * 64)
    folder = Parent(stage="seed", kind="dataset", repo="my data/<b>", revision="d" * 40, digest="d" * 64)
    revision = with_parents(store, gone, folder, models={"general": Model(id="../x [red]", revision="e" * 64)})
    nodes = lineage(str(revision), store)
    assert [node.state for node in nodes] == [FOUND, NOT_FOUND, NOT_FOUND, EXTERNAL]
    rows = lineage_rows(nodes)
    assert rows[0][3] == "sample: local/demo-groups, seed: my data/<b>, general: ../x [red]"
    assert rows[1] == ("", "local/demo-groups@0123456789ab", "", "(not found)")
    assert rows[3] == ("", "../x [red]@eeeeeeeeeeee", "", "")


def test_a_parent_with_another_digest_is_marked(store: Store) -> None:
    groups = add_dataset(store, "sample", scores_frame().select(c.name for c in GRACE_KTO.stage("sample").columns))
    parent = Parent(stage="sample", kind="dataset", repo=groups.repo, revision=groups.revision, digest="f" * 64)
    nodes = lineage(str(with_parents(store, parent)), store)
    assert [node.state for node in nodes] == [FOUND, ALTERED]
    assert lineage_rows(nodes)[1][3] == "(digest differs)"
    policy = add_model(store, "local/demo-policy")
    trained = Parent(stage="policy", kind="model", repo=policy.repo, revision=policy.revision, digest="f" * 64)
    nodes = lineage(str(with_parents(store, trained, models={"policy": model_of(policy)})), store)
    assert [(node.kind, node.state) for node in nodes] == [("dataset", FOUND), ("model", ALTERED)]
    true = parent.model_copy(update={"digest": groups.digest})
    again = parent.model_copy(update={"stage": "again"})
    assert lineage(str(with_parents(store, true)), store)[1].state == FOUND
    assert lineage(str(with_parents(store, true, again)), store)[1].state == ALTERED


def test_a_circle_ends(store: Store) -> None:
    """A manifest's revision is its hash, so a circle is only possible on the Hub or in an altered store."""
    first = with_parents(store, repo="ns/a")
    back = Parent(stage="score", kind="dataset", repo=first.repo, revision=first.revision, digest=first.digest)
    second = with_parents(store, back, repo="ns/b")
    assert first.manifest is not None
    to_second = Parent(stage="score", kind="dataset", repo=second.repo, revision=second.revision, digest=second.digest)
    altered = first.manifest.model_copy(update={"parents": [to_second]})
    (first.path / "manifest.json").write_text(altered.to_json(), encoding="utf-8")
    nodes = lineage(str(first), store)
    assert [node.repo for node in nodes] == ["ns/a", "ns/b"]
    assert [row[1].split("@")[0] for row in lineage_rows(nodes)] == ["ns/a", "ns/b"]


def test_a_chain_without_end_is_cut(store: Store, two_rounds: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_NODES", 2)
    nodes = lineage("local/demo-weights@round-001", store)
    assert [node.state for node in nodes] == [FOUND, FOUND, NOT_FOLLOWED, NOT_FOLLOWED, NOT_FOLLOWED]


def test_a_chain_deeper_than_the_recursion_limit(
    store: Store, two_rounds: Chain, capsys: pytest.CaptureFixture[str]
) -> None:
    template = lineage("local/demo-seed", store)[0]
    ids = [f"dataset:ns/x@{i:040x}" for i in range(1500)]
    nodes = [
        Node(id_, FOUND, "dataset", "ns/x", id_[-40:], "seed", 1, template.digest, 1, {"p": after} if after else {})
        for id_, after in zip(ids, [*ids[1:], ""], strict=True)
    ]
    assert [row[1] for row in lineage_rows(nodes)] == [f"ns/x@{id_[-40:-28]}" for id_ in ids]
    print_lineage([*nodes[:200], Node(ids[200], NOT_FOUND, "dataset", "ns/x", ids[200][-40:])])
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if "ns/x@" in line]) == 201


def hub(monkeypatch: pytest.MonkeyPatch, answers: dict[str, Manifest | UserError | None]) -> list[str]:
    """Let the Hub hold these manifests by repository; the list of what was asked for."""
    asked = []

    def fetch(repo: str, revision: str, kind: Kind) -> Manifest | None:
        asked.append(f"{kind}:{repo}@{revision}")
        answer = answers.get(repo, NotOnHub("not there"))
        if isinstance(answer, UserError):
            raise answer
        return answer

    monkeypatch.setattr(module, "fetch_manifest", fetch)
    return asked


def test_what_the_store_lacks_is_looked_up_on_the_hub(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = Store(store.root / "elsewhere")
    queries = plain_frame(GRACE_KTO.stage("generate").columns)
    remote = add_dataset(elsewhere, "generate", queries, repo="ns/demo-queries").manifest
    assert remote is not None
    parents = [
        Parent(stage="generate", kind="dataset", repo="ns/demo-queries", revision=COMMIT, digest=remote.digest),
        Parent(stage="seed", kind="dataset", repo="ns/foreign", revision=COMMIT, digest="0" * 64),
        Parent(stage="seed", kind="dataset", repo="ns/gone", revision=COMMIT, digest="0" * 64),
        Parent(stage="seed", kind="dataset", repo="ns/unpinned", revision="main", digest="0" * 64),
        Parent(stage="seed", kind="dataset", repo="local/never", revision=COMMIT, digest="0" * 64),
    ]
    revision = add_dataset(store, "seed", plain_frame(GRACE_KTO.stage("seed").columns), parents=[])
    assert revision.manifest is not None
    asked = hub(monkeypatch, {"ns/demo-queries": remote, "ns/foreign": None})
    states = []
    for parent in parents:
        manifest = revision.manifest.model_copy(update={"parents": [parent]})
        (revision.path / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
        states.append(lineage(str(revision), store)[1].state)
    assert states == [FOUND, EXTERNAL, NOT_FOUND, NOT_FOUND, NOT_FOUND]
    assert asked == [f"dataset:{repo}@{COMMIT}" for repo in ("ns/demo-queries", "ns/foreign", "ns/gone")]


def test_a_hub_that_does_not_answer_is_asked_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = hub(monkeypatch, {name: HubUnreachable("no answer") for name in ("ns/a", "ns/b")})
    models = {name: Model(id=f"ns/{name}", revision=COMMIT) for name in ("a", "b")}
    nodes = lineage(str(with_parents(store, models=models)), store)
    assert [node.state for node in nodes] == [FOUND, UNREACHABLE, UNREACHABLE]
    assert asked == [f"model:ns/a@{COMMIT}"]


def test_a_manifest_that_cannot_be_read_is_marked(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = add_dataset(store, "sample", scores_frame().select(c.name for c in GRACE_KTO.stage("sample").columns))
    parent = Parent(stage="sample", kind="dataset", repo=groups.repo, revision=groups.revision, digest=groups.digest)
    (groups.path / "manifest.json").write_text('{"stage": 1}', encoding="utf-8")
    hub(monkeypatch, {"ns/x": UserError("not a manifest")})
    models = {"policy": Model(id="ns/x", revision=COMMIT)}
    nodes = lineage(str(with_parents(store, parent, models=models)), store)
    assert [node.state for node in nodes] == [FOUND, UNREADABLE, UNREADABLE]


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HfApi]:
    """A client of an empty Hub with an empty cache; what the code under test calls is the same Hub."""
    with HubServer() as server:
        server.add_token(TOKEN, "alice")
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield HfApi(endpoint=server.endpoint, token=TOKEN)


def publish(api: HfApi, repo: str, files: dict[str, bytes], tag: str | None = None) -> str:
    api.create_repo(repo, repo_type="dataset")
    commit = push(api, repo, files)
    if tag:
        api.create_tag(repo, tag=tag, repo_type="dataset")
    return commit


def test_the_chain_is_read_from_the_hub_without_its_data(store: Store, tmp_path: Path, api: HfApi) -> None:
    seed = add_dataset(store, "seed", plain_frame(GRACE_KTO.stage("seed").columns), repo="alice/demo-seed", round_=0)
    foreign = publish(api, "alice/foreign", {"data.txt": b"x"})
    other = publish(api, "alice/other", {"manifest.json": b'{"name": "an app"}'})
    assert seed.manifest is not None
    commit = publish(api, "alice/demo-seed", {"manifest.json": seed.manifest.to_json().encode()})
    parents = [
        Parent(stage="seed", kind="dataset", repo="alice/demo-seed", revision=commit, digest=seed.digest),
        Parent(stage="foreign", kind="dataset", repo="alice/foreign", revision=foreign, digest="0" * 64),
        Parent(stage="other", kind="dataset", repo="alice/other", revision=other, digest="0" * 64),
        Parent(stage="gone", kind="dataset", repo="alice/gone", revision=COMMIT, digest="0" * 64),
        Parent(stage="commit", kind="dataset", repo="alice/foreign", revision=COMMIT, digest="0" * 64),
    ]
    manifest = seed.manifest.model_copy(update={"stage": "generate", "parents": parents, "repo": "alice/demo-queries"})
    head = publish(api, "alice/demo-queries", {"manifest.json": manifest.to_json().encode()}, tag="round-001")
    empty = Store(tmp_path / "empty")
    for ref in ("alice/demo-queries", "alice/demo-queries@round-001", f"alice/demo-queries@{head}"):
        nodes = lineage(ref, empty)
        assert (nodes[0].stage, nodes[0].revision) == ("generate", head)
        assert [node.state for node in nodes[1:]] == [FOUND, EXTERNAL, EXTERNAL, NOT_FOUND, NOT_FOUND]
        assert (nodes[1].revision, nodes[1].digest, nodes[1].rows) == (commit, seed.digest, 3)
    with pytest.raises(UserError, match="alice/nothing"):
        lineage("alice/nothing", empty)
    with pytest.raises(UserError, match="nothing is known of where it came from"):
        lineage("alice/foreign", empty)


def test_earlier_rounds_among_the_parents_are_told_apart_by_their_round(store: Store) -> None:
    columns = GRACE_KTO.stage("generate").columns
    made = [add_dataset(store, "generate", plain_frame(columns, n), round_=n) for n in (1, 2)]
    third = add_dataset(store, "generate", plain_frame(columns, 3), round_=3, parents=made)
    nodes = lineage(str(third), store)
    assert nodes[0].parents == {
        "generate round-001": f"dataset:{made[0]}",
        "generate round-002": f"dataset:{made[1]}",
    }
    assert [row[3] for row in lineage_rows(nodes)] == ["generate 1–2", "", ""]


def as_format_1(store: Store, revision: Revision, *parents: tuple[str, Revision]) -> Revision:
    """The revision as the version before wrote it, its parents by the names they had then, under its own name."""
    assert revision.manifest is not None
    value = revision.manifest.model_dump()
    for name in ("pipeline", "execution", "bytes_depend_on"):
        del value[name]
    value |= {
        "format": 1,
        "stage": {"policy": "train"}.get(value["stage"], value["stage"]),
        "parents": [
            {"stage": name, "repo": parent.repo, "revision": parent.revision, "digest": parent.digest}
            for name, parent in parents
        ],
    }
    content = (json.dumps(value, sort_keys=True, indent=1) + "\n").encode()
    (revision.path / "manifest.json").write_bytes(content)
    name = hashlib.sha1(content).hexdigest()
    revision.path.rename(revision.path.with_name(name))
    store.set_refs(revision.repo, revision.manifest.kind, name, [f"round-{revision.manifest.round:03d}"])
    found = store.find(revision.repo, name, revision.manifest.kind)
    assert found is not None
    return found


def test_a_chain_of_format_1_is_followed(store: Store) -> None:
    def queries(round_: int, policy: Revision) -> Revision:
        frame = plain_frame(GRACE_KTO.stage("generate").columns, round_)
        return add_dataset(store, "generate", frame, round_=round_, models={"policy": model_of(policy)})

    seed = as_format_1(store, add_dataset(store, "seed", plain_frame(GRACE_KTO.stage("seed").columns), round_=0))
    sft = as_format_1(store, add_model(store, "local/demo-sft", round_=0, models={"base": DOMAIN}), ("seed", seed))
    first = as_format_1(store, queries(1, sft), ("seed", seed))
    policy = as_format_1(
        store,
        add_model(store, "local/demo-policy", models={"base": model_of(sft), "policy": model_of(sft)}),
        ("calibrate", first),
    )
    second = as_format_1(store, queries(2, policy), ("seed", seed), ("queries round-001", first))
    nodes = lineage("local/demo-queries@round-002", store)
    assert {node.id: (node.state, node.stage, node.round) for node in nodes} == {
        f"dataset:{second}": (FOUND, "generate", 2),
        f"dataset:{seed}": (FOUND, "seed", 0),
        f"dataset:{first}": (FOUND, "generate", 1),
        f"model:{sft}": (FOUND, "sft", 0),
        f"model:{policy}": (FOUND, "policy", 1),
        f"model:{DOMAIN}": (EXTERNAL, None, None),
    }
    assert nodes[0].parents == {"seed": f"dataset:{seed}", "generate": f"dataset:{first}"}
    assert nodes[0].models == {"policy": f"model:{policy}"}
    made_from = {name: above for name, _, _, above in lineage_rows(nodes)}
    assert made_from["generate 2"] == "seed, generate 1, policy 1"
    assert made_from["policy 1"] == "calibrate: generate 1, base: sft, policy: sft"


def test_a_chain_of_another_pipeline_is_followed(tmp_path: Path) -> None:
    """Manifests are read without knowing the pipeline; models that stages made are parents of their own name."""
    config = toy_config(tmp_path / "store", workers=1)
    built = {result.stage: result.revision for result in run(TOY, config, "totals")}
    nodes = lineage(str(built["totals"]), Store(Path(config.store)))
    assert {node.stage for node in nodes} == set(built) and {node.state for node in nodes} == {FOUND}
    assert nodes[0].parents == {
        name: f"{kind}:{built[name]}"
        for name, kind in (("numbers", "dataset"), ("fold-1", "model"), ("fold-2", "model"), ("fold-3", "model"))
    }
    assert [node.rows for node in nodes if node.stage == "fold-1"] == [20]  # rows it was trained on


def test_a_path_is_a_ref_too(store: Store, two_rounds: Chain, tmp_path: Path) -> None:
    weights = two_rounds.made["calibrate", 2]
    assert lineage(str(weights.path), store) == lineage("local/demo-weights", store)
    (tmp_path / "plain").mkdir()
    scores_frame().write_parquet(tmp_path / "plain/a.parquet")
    with pytest.raises(UserError, match="nothing is known of where it came from"):
        lineage(str(tmp_path / "plain"), store)


def test_the_command(store: Store, two_rounds: Chain) -> None:
    args = ["lineage", "local/demo-policy@round-002", "--config", "tiny", "--store", str(store.root)]
    shown = CliRunner().invoke(app, args)
    assert shown.exit_code == 0, shown.output
    for name in ("seed", "sft", "queries", "groups", "scores", "weights", "policy"):
        assert f"local/demo-{name}@" in shown.output
    assert [line.split("@")[0].split() for line in shown.output.splitlines()[:2]] == [
        ["stage", "revision", "rows", "made", "from"],
        ["policy", "2", "local/demo-policy"],
    ]
    value = json.loads(CliRunner().invoke(app, [*args, "--json"]).output.splitlines()[-1])
    assert value["ref"] == value["nodes"][0]["id"]
    assert len(value["nodes"]) == 13
    read = read_manifest(two_rounds.sft.path)
    assert read is not None
    assert {"stage": "sft", "digest": read.digest}.items() <= next(
        n for n in value["nodes"] if n["stage"] == "sft"
    ).items()


def test_text_of_a_manifest_is_neither_markup_nor_control_sequence(store: Store) -> None:
    parent = Parent(stage="[bold]\x1b[31m", kind="dataset", repo="local/x", revision=COMMIT, digest="0" * 64)
    revision = with_parents(store, parent)
    args = ["lineage", str(revision), "--config", "tiny", "--store", str(store.root)]
    output = CliRunner().invoke(app, args).output
    assert "\x1b" not in output
    assert "[bold]\\x1b[31m:" in output


def test_a_folder_that_is_no_revision_is_told_without_reading_what_lies_in_it(tmp_path: Path, store: Store) -> None:
    (tmp_path / "spark.parquet" / "part.parquet").mkdir(parents=True)  # as other software names its folders
    for folder in (tmp_path, tmp_path / "spark.parquet", tmp_path / "spark.parquet" / "part.parquet"):
        with pytest.raises(UserError, match=r"no manifest.json in it, so it is no revision"):
            lineage(str(folder), store)


def test_a_misspelt_ref_names_what_is_near(store: Store, two_rounds: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for ref, near in (
        ("local/demo-wieghts", "did you mean local/demo-weights?"),
        ("demo-scores", "did you mean local/demo-scores?"),
        ("local/demo-scores@round-02", "the store has local/demo-scores at round-002"),
    ):
        with pytest.raises(UserError) as error:
            lineage(ref, store)
        assert near in str(error.value)
