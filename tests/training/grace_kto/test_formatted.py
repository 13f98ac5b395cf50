"""A folder of plain documents and an instruct model: `train --sft` through stage `format`, and what bears its name."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_server import Answer, Body, ChatServer, choices, running
from datasets_factory import add_dataset
from real_configs import config_on
from tiny_models import make_reciting_lm
from typer.testing import CliRunner

from builders.core.models import served_by
from builders.grace_kto.format import ask_for_plan
from builders.grace_kto.messages import prompt_text
from builders.grace_kto.settings import GraceKTOSettings
from builders.hub.refs import open_here
from builders.inspect.verify import verify
from builders.store.store import Store
from scorers.errors import UserError
from scorers.extraction import compose
from training.cli import app
from training.pipelines import PIPELINES, build, plan, whole_run

PIERS = range(3, 7)
REPLY = "<summary>An old pier.</summary><outline>State\nRepair</outline>"
SMALL = (
    "sft={steps: 2, batch_size: 2, warmup_ratio: 0.0, learning_rate: 1.0e-3}",
    "seed.columns={query: query, reference: reference}",
    "sample.system_prompt=system.en",
)


def document(pier: int) -> str:
    """Of equally many tokens for every pier of `PIERS`, as a reciting model needs."""
    return f"The pier {pier} is old. It leans.\n\nIt needs repair soon, and nobody pays."


def query(pier: int) -> str:
    return f"Write about pier {pier}."


@pytest.fixture(scope="module")
def teacher_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers the stage's prompt about any pier with one summary and outline."""
    folder = tmp_path_factory.mktemp("models") / "teacher"
    return make_reciting_lm(folder, ask_for_plan(query(3), document(3), "en"), REPLY, window=1024)


def config_for(folder: Path, base: Path, *overrides: str) -> GraceKTOSettings:
    source = folder / "documents.jsonl"
    rows = [{"query": query(pier), "reference": document(pier)} for pier in PIERS]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return config_on(
        folder, f"seed.source={source}", *SMALL, "format={temperature: 0, max_new_tokens: 70}", *overrides, policy=base
    )


@pytest.mark.slow
def test_plain_documents_and_a_teacher_give_the_first_policy(
    tmp_path: Path, causal_lm_dir: Path, teacher_dir: Path
) -> None:
    from datasets import load_dataset
    from trl import SFTConfig, SFTTrainer

    config = config_for(tmp_path, causal_lm_dir, f"models.teacher={teacher_dir}", "models.policy=sft")
    results = build(config, "sft")
    assert [result.stage for result in results] == ["seed", "format", "sft"]
    documents, policy = results[1].revision, results[2].revision
    rows = documents.scan().collect()
    assert rows["completion"].to_list() == [
        [{"role": "assistant", "content": compose("An old pier.", "State\nRepair", document(pier))}] for pier in PIERS
    ]
    assert policy.manifest is not None and documents.manifest is not None
    # The model is made from the formatted documents and says so; the seeds stand above those.
    assert [(p.stage, p.kind, p.digest) for p in policy.manifest.parents] == [("format", "dataset", documents.digest)]
    assert policy.manifest.counts == {"documents formatted": 4} and policy.manifest.rows.written == 4
    assert policy.manifest.prompts == {"system.en": prompt_text("system.en")}
    card = (policy.path / "README.md").read_text(encoding="utf-8")
    assert "- 4 plain ones that the stage `format` has brought into it" in card
    assert f"train --stage sft --dataset local/tiny-sft --revision {documents.revision} --config grace.yaml" in card
    assert verify(documents, PIPELINES) == verify(policy, PIPELINES) == []
    # A second run does nothing, and the whole graph stands on it.
    assert not any(result.built for result in build(config, "sft"))
    assert [found.action for found in plan(config, "generate")] == ["keep", "keep", "keep", "build"]

    # The dataset trains with stock TRL as it is.
    loaded = load_dataset(str(documents.path), split="train", cache_dir=str(tmp_path / "cache"))
    trainer = SFTTrainer(
        model=str(causal_lm_dir),
        args=SFTConfig(output_dir=str(tmp_path / "trl"), max_steps=1, report_to=[], use_cpu=True, bf16=False),
        train_dataset=loaded.select_columns(["prompt", "completion"]),
    )
    assert trainer.train().training_loss > 0


@pytest.mark.slow
def test_a_teacher_makes_an_earlier_first_policy_stale_and_none_keeps_it(
    tmp_path: Path, causal_lm_dir: Path, teacher_dir: Path
) -> None:
    first = build(config_for(tmp_path, causal_lm_dir, "sft.untagged=wrap"), "sft")[-1]
    assert not build(config_for(tmp_path, causal_lm_dir, "sft.untagged=wrap", "format.attempts=9"), "sft")[-1].built
    taught = config_for(tmp_path, causal_lm_dir, "sft.untagged=wrap", f"models.teacher={teacher_dir}")
    assert [found.reason for found in plan(taught, "sft")][1:] == ["missing", "format is built first"]
    again = build(taught, "sft")[-1]
    assert again.reason == "parent changed: format" and again.revision.digest != first.revision.digest


def test_the_refusal_of_plain_documents_names_the_teacher(tmp_path: Path, causal_lm_dir: Path) -> None:
    with pytest.raises(UserError, match=r"4 have none of the tags; set models\.teacher to let that model write summ"):
        build(config_for(tmp_path, causal_lm_dir), "sft")


@pytest.fixture
def held(tmp_path: Path, causal_lm_dir: Path, teacher_dir: Path) -> GraceKTOSettings:
    """A store that has the dataset and the model of one name."""
    config = config_for(tmp_path, causal_lm_dir, f"models.teacher={teacher_dir}")
    build(config, "sft")
    return config


def printed(config: GraceKTOSettings, *words: str) -> tuple[Any, str]:
    """The JSON that a command prints, and what it says beside it."""
    done = CliRunner().invoke(app, [*words, "--config", "tiny", "--store", config.store, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout.splitlines()[-1]), done.output


def test_a_dataset_and_a_model_of_one_name(held: GraceKTOSettings) -> None:
    store = Store(Path(held.store))
    dataset, model = (store.find("local/tiny-sft", "main", kind) for kind in ("dataset", "model"))
    assert dataset is not None and model is not None and dataset.revision != model.revision
    for words in (["verify", "local/tiny-sft"], ["lineage", "local/tiny-sft@round-000"]):
        found, said = printed(held, *words)
        assert dataset.revision in json.dumps(found)
        assert f"{words[1]} is a dataset and a model; the dataset is taken, --model takes the model\n" in said
        found, said = printed(held, *words, "--model")
        assert model.revision in json.dumps(found) and "--model" not in said
    # A commit is of one of them alone, and a folder says which it is.
    for revision in (dataset, model):
        assert open_here(str(revision.path.parents[1]), store) == revision
        for name in (str(revision), str(revision.path)):
            found, said = printed(held, "verify", name)
            assert revision.revision in json.dumps(found) and "--model" not in said
    # Both are of the run, the documents first, and models are looked for among models.
    names = [(revision.manifest.kind, revision.manifest.stage) for revision in whole_run(held) if revision.manifest]
    assert names == [("dataset", "seed"), ("dataset", "format"), ("model", "sft")]
    (plans,) = plan(config_on(store.root.parent, "models.policy=local/tiny-sft", policy=None), "sft")[-1:]
    assert plans.repo == "local/tiny-sft"


@pytest.mark.slow
def test_the_first_policy_from_a_given_dataset(held: GraceKTOSettings, tmp_path: Path, causal_lm_dir: Path) -> None:
    """Somebody's documents are trained on as they are, without the model that formatted them."""
    (tmp_path / "mine").mkdir()
    mine = config_for(tmp_path / "mine", causal_lm_dir, "sample.system_prompt=system.zh")
    documents = Store(Path(held.store)).find("local/tiny-sft", "main")
    assert documents is not None
    (result,) = build(mine, "sft", start=str(documents.path))
    manifest = result.revision.manifest
    assert manifest is not None and [parent.stage for parent in manifest.parents] == ["format"]
    # The messages are those of the dataset, whatever the configuration says.
    assert manifest.prompts == {"system.en": prompt_text("system.en")} and manifest.rows.written == 4
    weights = add_dataset(Store(Path(mine.store)), "generate", queries(), repo="local/other-queries")
    with pytest.raises(UserError, match=r"it is of stage generate; sft starts from one of seed, format$"):
        build(mine, "sft", start=str(weights))


def queries() -> Any:
    from builders.grace_kto.columns import QUERIES_COLUMNS
    from builders.store.columns import frame_of

    row = {"query_id": "a", "query": "Write.", "language": "en", "round": 1, "example_ids": ["b"], "generator": "m@r"}
    return frame_of([row], QUERIES_COLUMNS)


def answer(body: Body) -> Answer:
    """Two parts, which every other request gets wrong."""
    return 200, choices(REPLY if body["seed"] % 2 else "No.")


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with running(ChatServer(answer)) as made:
        yield made


def served(server: ChatServer) -> tuple[str, str]:
    url = f"engines.teacher={{kind: openai, base_url: {server.url}, retries: 0}}"
    return "models.teacher=writer", url


def test_a_teacher_that_a_server_runs(server: ChatServer, tmp_path: Path, causal_lm_dir: Path) -> None:
    config = config_for(
        tmp_path, causal_lm_dir, *served(server), "format={temperature: 0.7, attempts: 20, max_new_tokens: 70}"
    )
    revision = build(config, "format")[-1].revision
    rows = revision.scan().collect()
    assert rows.height == 4 and set(rows["summary"]) == {"An old pier."}
    assert rows["attempts"].sum() == len(server.asked) and rows["formatter"][0].startswith("writer@served-")
    assert {body["max_tokens"] if "max_tokens" in body else body["max_completion_tokens"] for body in server.asked} == {
        70
    }
    assert revision.manifest is not None and revision.manifest.bytes_depend_on == ["the server"]
    assert build(config, "sft")[-1].built


def test_one_name_for_a_model_here_and_one_on_a_server(server: ChatServer, tmp_path: Path, causal_lm_dir: Path) -> None:
    alike = f"engines.policy={{kind: openai, base_url: {server.url}, retries: 0}}"
    config = config_for(tmp_path, causal_lm_dir, *served(server), "models.policy=writer")
    with pytest.raises(UserError) as error:
        build(config, "format")
    assert str(error.value) == (
        "models.teacher and models.policy are both writer, and engines.teacher asks a server otherwise than "
        "engines.policy; give both engines the same settings, or call one of the models by another name, such as "
        "writer@main for the files of that name"
    )
    elsewhere = "engines.policy={kind: openai, base_url: 'http://127.0.0.1:9/v1'}"
    with pytest.raises(UserError, match=r"ask servers in different ways; give both .* \(vLLM: --served-model-name\)"):
        build(config_for(tmp_path, causal_lm_dir, *served(server), "models.policy=writer", elsewhere), "format")
    both = config_for(tmp_path, causal_lm_dir, *served(server), "models.policy=writer", alike)
    assert set(served_by(both)) == {"writer"} and build(both, "format")[-1].built
    # SFT needs the files of its base, not the server's model of that name.
    with pytest.raises(UserError, match=r"SFT needs the files of model writer, .* or write writer@main for the files"):
        build(config_for(tmp_path, causal_lm_dir, *served(server), "models.base=writer", "models.policy=sft"), "sft")
