"""Cards: every section from the manifest, and hostile text that changes nothing but itself."""

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from card_snapshots import (
    COMMIT,
    DIGEST,
    MARKDOWN,
    card_of,
    fences,
    front_matter,
    model_manifest,
    parents_of,
    snapshot,
)
from jinja2 import UndefinedError
from toy_pipeline import TOY, toy_config

from builders.cards.card import Card, Page
from builders.cards.render import TEMPLATES, environment, languages_of, write_card
from builders.core.run import run
from builders.grace_kto.card import SNIPPET_MODEL
from builders.settings.base import executions, identities
from builders.store.columns import frame_of
from builders.store.manifest import (
    TRAINING_LOG,
    DataFile,
    Manifest,
    Model,
    Parent,
    Rows,
    content_digest,
    describe_files,
    portable,
    read_manifest,
)
from builders.store.shards import write_shard
from builders.store.store import Store
from builders.store.training_log import log_text
from scorers.errors import UserError
from training.grace_kto.pipeline import GRACE_KTO
from training.pipelines import PIPELINES, load_config, page_of

DATASETS = [stage.name for stage in GRACE_KTO.stages if stage.kind == "dataset"]
FIGURES = ("figure-weights.png", "figure-reward_by_length.png")
MODELS = [stage.name for stage in GRACE_KTO.stages if stage.kind == "model"]
#: A value that is not the preset's in every section that a stage reads.
OTHER_SETTINGS = (
    "random_seed=7",
    "threads=3",
    "world.seed=5",
    "seed={source: mine.jsonl, columns: {query: text}, license: mit}",
    "generate={queries: 9, examples: 2}",
    "sample={responses: 3, system_prompt: system.en}",
    "format={attempts: 2, top_p: 0.5, thinking_tags: null}",
    "engines.teacher={kind: vllm, batch_size: 5}",
    "engines.criteria={kind: vllm, batch_size: 5}",
    "engines.judge={kind: vllm, batch_size: 5}",
    "criteria.attempts=2",
    "rate.repeats=2",
    "engines.policy={kind: vllm, context: {method: yarn, window: 4096}, batch_size: 3, tensor_parallel: 2}",
    "score={ngram: 5, summary_relevance: {dense: 0.5, lexical: 0.25, multivector: 0.25}, texts_per_batch: 3}",
    "calibrate={binary: true, coefficients: {length: 2.0}}",
    "sft={steps: 9, learning_rate: 1.0e-3, batch_size: 4, device_batch_size: 2}",
    # 6 is no multiple of the preset's 16 rows on a device.
    "train={method: lora, batch_size: 6, device_batch_size: 3, lora_targets: [q_proj, v_proj], lambdas: [1.0, 2.0]}",
    "loop.rounds=7",
)

HOSTILE = "``` ```` <script>alert(1)</script> | a | {{ manifest }} {% raw %}\n---\n# title\n</details>\n\u202e $$x$$"


def made(folder: Path, stage_name: str, **changes: Any) -> Manifest:
    """A revision of any stage, of a dataset or of a model, as far as a card needs it, and its manifest."""
    stage = GRACE_KTO.stage(stage_name)
    if stage.kind == "dataset":
        return snapshot(folder, stage_name, **changes)
    folder.mkdir(parents=True, exist_ok=True)
    config = load_config("tiny")
    fields = {
        "repo": f"local/demo-{stage.suffix}",
        "round": 1 if stage.per_round else 0,
        "configuration": identities(config, stage.sections),
        "execution": executions(config, stage.sections),
        "bytes_depend_on": list(stage.bytes_depend_on(config)) if stage.bytes_depend_on else [],
        "parents": parents_of(stage.parents),
    }
    if not stage.roles:
        fields["models"] = {}
    if stage_name == "sft":
        fields["prompts"] = {"system.en": "Write well."}
    return model_manifest(stage_name, Model(id="Qwen/Qwen2.5-0.5B", revision=COMMIT), **(fields | changes))


def test_values_are_escaped_unless_a_template_says_otherwise_and_never_rendered_again() -> None:
    made = environment().from_string("{{ a }} {{ a | code }} {{ n }} {{ x }}")
    assert made.render(a="{{ n }}|", n=3, x=0.123456) == ("&#123;{ n }}&#124; <code>&#123;{ n }}&#124;</code> 3 0.1235")
    with pytest.raises(UndefinedError, match="absent"):
        environment().from_string("{{ absent }}").render()


def test_every_stage_has_its_template_and_every_template_its_stage() -> None:
    names = {path.relative_to(TEMPLATES).as_posix() for path in TEMPLATES.rglob("*.md.jinja")}
    used = {stage.card.template for pipeline in PIPELINES for stage in pipeline.stages}
    assert {name for name in names if "/_" not in f"/{name}"} == used


@pytest.mark.parametrize("stage_name", DATASETS)
def test_hostile_text_leaves_the_structure_as_it_is(stage_name: str, tmp_path: Path) -> None:
    def outline(text: str) -> list[tuple[str, str]]:
        tokens = MARKDOWN.parse(text.split("\n---\n", 1)[1])
        return [(t.type, t.tag) for t in tokens]

    calm = snapshot(tmp_path / "calm", stage_name, text="calm")
    wild = snapshot(
        tmp_path / "wild",
        stage_name,
        text=HOSTILE,
        rows=Rows(read=10, written=9, dropped={HOSTILE: 1}),
        code_version=HOSTILE,
    )
    first, second = (card_of(m, tmp_path / n) for m, n in ((calm, "calm"), (wild, "wild")))
    assert outline(first) == outline(second)
    assert front_matter(first).keys() == front_matter(second).keys()
    assert json.loads(fences(second, "json")[0]).keys() == json.loads(fences(first, "json")[0]).keys()
    assert "\u202e" not in second
    outside = re.sub(r"^(`{3,}).*?^\1$", "", second.split("\n---\n", 1)[1], flags=re.MULTILINE | re.DOTALL)
    assert "<script" not in outside and "{{" not in outside


@pytest.mark.parametrize("stage_name", MODELS)
def test_hostile_text_leaves_the_structure_of_a_models_card_as_it_is(stage_name: str, tmp_path: Path) -> None:
    def outline(text: str) -> list[tuple[str, str]]:
        return [(t.type, t.tag) for t in MARKDOWN.parse(text.split("\n---\n", 1)[1])]

    def texts(text: str) -> dict[str, Any]:
        parent = Parent(stage=text, kind="model", repo=text, revision=text, digest=text)
        return {
            "code_version": text,
            "parents": [parent],
            "models": {text: Model(id=text, revision=text)},
            "results": {text: 0.5},
            "counts": {text: 1},
            "prompts": {text: text},
            "bytes_depend_on": [text],
            "execution": {"train": {text: text}},
        }

    calm, wild = (made(tmp_path, stage_name, **texts(text)) for text in ("calm", HOSTILE))
    first, second = card_of(calm, tmp_path), card_of(wild, tmp_path)
    assert outline(first) == outline(second)
    assert front_matter(first).keys() == front_matter(second).keys()
    assert "\u202e" not in second
    outside = re.sub(r"^(`{3,}).*?^\1$", "", second.split("\n---\n", 1)[1], flags=re.MULTILINE | re.DOTALL)
    assert "<script" not in outside and "{{" not in outside


def test_equal_manifests_give_equal_bytes(tmp_path: Path) -> None:
    written = []
    for name in ("a", "b"):
        manifest = snapshot(tmp_path / name, "calibrate")
        write_card(manifest, tmp_path / name, page_of(manifest), Store(tmp_path / "store"))
        written.append([(tmp_path / name / file).read_bytes() for file in ("README.md", *FIGURES)])
    assert written[0] == written[1]
    assert all(image.startswith(b"\x89PNG") and b"tIME" not in image for image in written[0][1:])
    manifest = snapshot(tmp_path / "c", "calibrate", random_seed=8)
    assert card_of(manifest, tmp_path / "c").encode() != written[0][0]


@pytest.mark.parametrize("stage_name", DATASETS)
def test_a_manifest_read_back_gives_the_same_card(stage_name: str, tmp_path: Path) -> None:
    manifest = snapshot(tmp_path, stage_name)
    (tmp_path / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    assert card_of(read_manifest(tmp_path) or manifest, tmp_path) == card_of(manifest, tmp_path)
    assert list((read_manifest(tmp_path) or manifest).configuration) == sorted(manifest.configuration)


def test_sections_and_statistics_come_from_the_manifest(tmp_path: Path) -> None:
    manifest = snapshot(tmp_path, "calibrate")
    text = card_of(manifest, tmp_path)
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings == [
        "One row",
        "How it was made",
        "Columns",
        "Statistics",
        "Load",
        "Train with TRL",
        "Reproduce",
        "Known limits",
        "Licence",
        "Citation",
    ]
    assert "| dropped: blank | 1 |" in text and "| rows written | 9 |" in text
    assert "Label balance: 5 positive (55.6 %), 4 negative (44.4 %)." in text
    assert "desirable_weight=0.9," in text and "undesirable_weight=1.125," in text
    summary = manifest.metrics["weight"]
    assert f"| `weight` | {summary.count} | {summary.null} | {summary.mean:.4g} |".replace("0.0 ", "0 ") in text
    for column in GRACE_KTO.stage("calibrate").columns:
        assert f"| `{column.name}` |" in text


def test_the_example_is_the_first_matched_row_cut(tmp_path: Path) -> None:
    manifest = snapshot(tmp_path, "sample", text="x" * 400)
    row = json.loads(fences(card_of(manifest, tmp_path), "json")[0])
    assert row["matched"] is True and row["num_tokens"] == 1
    assert row["response"] == "x" * 240 + "… (162 more characters)"


def test_parents_and_models_are_links_only_where_they_can_be_looked_up(tmp_path: Path) -> None:
    tree = f"https://huggingface.co/datasets/somebody/demo-groups/tree/{COMMIT}"
    mine = [Parent(stage="sample", kind="dataset", repo="somebody/demo-groups", revision=COMMIT, digest=DIGEST)]
    manifest = snapshot(tmp_path, "score", repo="somebody/demo-scores", parents=mine)
    local = card_of(manifest, tmp_path)
    assert tree not in local and f"`somebody/demo-groups@{COMMIT}` (local)" in local
    assert "source_datasets" not in front_matter(local)
    public = card_of(manifest, tmp_path, published=True)
    assert f"({tree})" in public and front_matter(public)["source_datasets"] == ["somebody/demo-groups"]
    for text in (local, public):
        assert f"(https://huggingface.co/Qwen/Qwen2.5-0.5B/tree/{COMMIT})" in text
        assert f"| tokenizer | `local/demo-sft@{COMMIT}` (local) |" in text
        assert f"<code>bge&#124;&#60;b&#62;@{DIGEST}</code> (local)" in text
    foreign = snapshot(tmp_path, "score", parents=mine)
    assert f"({tree})" in card_of(foreign, tmp_path)


def test_no_folder_of_this_machine_is_shown(tmp_path: Path) -> None:
    assert portable({"a": {"source": "/home/me/seeds.jsonl"}, "b": "x/y", "c": 1}) == {
        "a": {"source": "seeds.jsonl"},
        "b": "x/y",
        "c": 1,
    }
    assert portable({"a": ("x", "/y/z")}) == {"a": ["x", "z"]}
    configuration = {"seed": load_config("tiny", [f"seed.source={tmp_path}/my.jsonl"]).seed.model_dump()}
    text = card_of(snapshot(tmp_path, "seed", configuration=configuration), tmp_path)
    assert str(tmp_path) not in text and "Read from `my.jsonl`" in text


@pytest.mark.parametrize("stage_name", [*DATASETS, *MODELS])
def test_the_reproduction_file_is_a_configuration_with_the_same_settings(stage_name: str, tmp_path: Path) -> None:
    stage = GRACE_KTO.stage(stage_name)
    preset, other = load_config("tiny"), load_config("tiny", OTHER_SETTINGS)
    configuration, execution = identities(other, stage.sections), executions(other, stage.sections)
    assert configuration != identities(preset, stage.sections)
    assert not execution or execution != executions(preset, stage.sections)
    manifest = made(tmp_path, stage_name, configuration=configuration, execution=execution, random_seed=7)
    text = card_of(manifest, tmp_path)
    (tmp_path / "grace.yaml").write_text(fences(text, "yaml")[0], encoding="utf-8")
    config = load_config(str(tmp_path / "grace.yaml"))
    assert portable(identities(config, stage.sections)) == portable(configuration)
    assert executions(config, stage.sections) == execution
    assert (config.pipeline, config.random_seed, config.name, config.local_namespace) == (
        "grace-kto",
        7,
        "demo",
        "local",
    )
    if stage_name in ("sft", "calibrate"):  # its messages begin with the system prompt that the manifest keeps
        assert config.sample.system_prompt == "system.en"
    if stage_name == "score":
        assert config.models.general == f"Qwen/Qwen2.5-0.5B@{COMMIT}" and config.models.domain == "world:domain"
        assert config.models.policy == f"local/demo-sft@{COMMIT}"
    if stage_name == "policy":
        assert config.models.base == f"Qwen/Qwen2.5-0.5B@{COMMIT}"


@pytest.mark.parametrize(
    ("stage_name", "command"),
    [
        ("world:seeds", "build --stage world:seeds"),
        ("seed", "build --stage seed"),
        ("format", f"build --stage format --from local/demo-seed@{COMMIT}"),
        ("generate", f"build --stage generate --round 1 --from local/demo-seed@{COMMIT}"),
        ("sample", f"build --stage sample --round 1 --from local/demo-queries@{COMMIT}"),
        ("calibrate", f"build --stage calibrate --round 1 --from local/demo-scores@{COMMIT}"),
        ("world:base", "train --stage world:base"),
        ("world:domain", "train --stage world:domain"),
        ("sft", f"train --stage sft --dataset local/demo-seed --revision {COMMIT}"),
        ("policy", f"train --round 1 --dataset local/demo-weights --revision {COMMIT}"),
    ],
)
def test_the_command_builds_it_again_from_its_pinned_parent(stage_name: str, command: str, tmp_path: Path) -> None:
    manifest = made(tmp_path, stage_name)
    text = card_of(manifest, tmp_path)
    assert fences(text, "bash")[-1] == f"{command} --config grace.yaml\n"
    following = {"seed": "generate", "generate": "sample", "sample": "score", "score": "calibrate"}.get(stage_name)
    starts = [f"build --stage {following} --from {manifest.repo}@{manifest.revision}\n"]
    assert fences(text, "bash")[:-1] == (starts if following else [])


def test_a_model_of_what_took_a_parents_place_is_made_from_that_again(tmp_path: Path) -> None:
    manifest = made(tmp_path, "sft", parents=parents_of(["format"]))
    command = f"train --stage sft --dataset local/demo-sft --revision {COMMIT} --config grace.yaml\n"
    assert fences(card_of(manifest, tmp_path), "bash")[-1] == command


def test_language_comes_from_the_nearest_ancestor_with_the_column(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    queries = snapshot(tmp_path / "queries", "generate", parents=[])
    parent = store.add(tmp_path / "queries", queries, ["main"])
    link = Parent(stage="generate", kind="dataset", repo=parent.repo, revision=parent.revision, digest=DIGEST)
    groups = snapshot(tmp_path / "groups", "sample", parents=[link])
    assert languages_of(groups, tmp_path / "groups", store) == ["en", "zh-CN"]
    write_card(groups, tmp_path / "groups", page_of(groups), store)
    assert front_matter((tmp_path / "groups/README.md").read_text(encoding="utf-8"))["language"] == ["en", "zh"]
    strange = groups.model_copy(update={"parents": [link.model_copy(update={"repo": "no name"})]})
    assert languages_of(strange, tmp_path / "groups", store) == []
    assert "language" not in front_matter(card_of(groups, tmp_path / "groups"))


def test_a_model_speaks_the_languages_of_all_its_data_and_data_not_those_of_a_model(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")

    def added(name: str, kind: str, repo: str, language: str | None, *parents: Parent) -> Parent:
        folder = tmp_path / repo
        if kind == "model":
            folder.mkdir()
            (folder / "config.json").write_text("{}")
            manifest = model_manifest(name, Model(id="x/y", revision=COMMIT), repo=f"local/{repo}", parents=parents)
        else:
            manifest = snapshot(folder, name, repo=f"local/{repo}", parents=list(parents))
        if language is not None:
            for file in (folder / "data").glob("*.parquet"):
                pl.read_parquet(file).with_columns(language=pl.lit(language)).write_parquet(file)
        rows = {file.path: file.rows for file in manifest.files if file.rows is not None}
        files = describe_files(folder, sorted([*folder.glob("data/*.parquet"), *folder.glob("config.json")]), rows)
        manifest = manifest.model_copy(update={"files": files, "digest": content_digest(files)})
        made = store.add(folder, manifest, ["main"])
        return Parent.model_validate(
            {"stage": name, "kind": kind, "repo": made.repo, "revision": made.revision, "digest": DIGEST}
        )

    seeds = added("seed", "dataset", "demo-seed", "en")
    policy = added("sft", "model", "demo-sft", None, seeds)
    queries = added("generate", "dataset", "demo-queries", "zh", seeds, policy)
    # The policy learned from English seeds; what it answered is Chinese.
    groups = added("sample", "dataset", "demo-groups", None, policy, queries)
    manifest = model_manifest("policy", Model(id="x/y", revision=COMMIT), parents=[policy, groups, seeds])
    assert languages_of(manifest, tmp_path / "nothing", store) == ["en", "zh"]
    only = model_manifest("policy", Model(id="x/y", revision=COMMIT), parents=[policy, groups])
    assert languages_of(only, tmp_path / "nothing", store) == ["zh"]
    taught = model_manifest("policy", Model(id="x/y", revision=COMMIT), parents=[policy])
    assert languages_of(taught, tmp_path / "nothing", store) == ["en"]


def test_the_two_best_pictures_are_shown_and_no_others(tmp_path: Path) -> None:
    manifest = snapshot(tmp_path, "calibrate")
    assert "](figure" not in card_of(manifest, tmp_path)
    write_card(manifest, tmp_path, page_of(manifest), Store(tmp_path / "store"))
    assert {path.name for path in tmp_path.glob("*.png")} == set(FIGURES)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert text.count("![") == 2
    assert "![Histogram of the weights by label](figure-weights.png)" in text
    assert "![Reward against length](figure-reward_by_length.png)" in text
    statistics = text[text.index("## Statistics") : text.index("## Load")]
    assert statistics.count("![") == 2


@pytest.mark.parametrize(
    ("stage_name", "figures"),
    [
        ("seed", []),
        ("sample", ["metrics", "metrics_by_policy"]),  # the rows made here are of several policies
        ("rate", ["ratings"]),
        ("calibrate", ["reward_by_length", "weights"]),
    ],
)
def test_which_pictures_a_stage_has(stage_name: str, figures: list[str], tmp_path: Path) -> None:
    manifest = snapshot(tmp_path, stage_name)
    write_card(manifest, tmp_path, page_of(manifest), Store(tmp_path / "store"))
    assert sorted(path.name for path in tmp_path.glob("*.png")) == [f"figure-{name}.png" for name in figures]


def test_the_figure_of_an_earlier_version_is_shown_where_there_is_no_other(tmp_path: Path) -> None:
    manifest = snapshot(tmp_path, "calibrate")
    (tmp_path / "figure.png").write_bytes(b"PNG")
    assert "![Histogram of the weights by label](figure.png)" in card_of(manifest, tmp_path)
    (tmp_path / FIGURES[0]).write_bytes(b"PNG")
    assert "(figure.png)" not in card_of(manifest, tmp_path)


def test_a_model_with_a_log_shows_its_curves(tmp_path: Path) -> None:
    rows = [{"step": step, "round": 1, "loss": 1 / step, "kl": 0.1 * step} for step in range(1, 5)]
    (tmp_path / TRAINING_LOG).write_text(log_text(rows), encoding="utf-8")
    log = describe_files(tmp_path, [tmp_path / TRAINING_LOG])
    manifest = model_manifest("policy", Model(id="x/y", revision=COMMIT)).model_copy(update={"training_log": log})
    write_card(manifest, tmp_path, page_of(manifest), Store(tmp_path / "store"))
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    results = text[text.index("## Results of the training run") : text.index("## Load")]
    assert "(figure-learning_curves.png)" in results and "(figure-margins.png)" in results


def test_an_empty_dataset_has_a_card(tmp_path: Path) -> None:
    stage = GRACE_KTO.stage("seed")
    path = tmp_path / "data" / "train-00000-of-00001.parquet"
    path.parent.mkdir()
    write_shard(frame_of([], stage.columns), stage.columns, path, {"read": 0})
    files = [DataFile(path="data/train-00000-of-00001.parquet", size=path.stat().st_size, sha256=DIGEST, rows=0)]
    manifest = snapshot(tmp_path / "other", "seed", files=files, rows=Rows(read=0, written=0))
    text = card_of(manifest, tmp_path)
    assert "There is no row." in text and front_matter(text)["dataset_info"]["dataset_size"] == 0


def test_model_card_of_a_published_adapter(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    (tmp_path / "adapter_config.json").write_text("{}")
    manifest = model_manifest("policy", Model(id="Qwen/Qwen2.5-0.5B", revision=COMMIT))
    text = card_of(manifest, tmp_path, published=True, languages=["en"])
    card = ModelCard(text)
    assert str(card) == text == card_of(manifest, tmp_path, published=True, languages=["en"])
    data = front_matter(text)
    assert data["base_model"] == "Qwen/Qwen2.5-0.5B" and data["base_model_relation"] == "adapter"
    assert data["datasets"] == ["somebody/demo-weights"] and data["library_name"] == "peft"
    assert {"trl", "kto", "grace-kto"} <= set(data["tags"]) and data["license"] == "apache-2.0"
    assert f"/datasets/somebody/demo-weights/tree/{COMMIT}" in text
    assert "| `loss` | 0.4877 |" in text and "| `rewards/chosen` | 0.1 |" in text
    command = f"train --round 2 --dataset somebody/demo-weights --revision {COMMIT} --config grace.yaml\n"
    assert fences(text, "bash") == [command]
    (snippet,) = fences(text, "python")
    compile(snippet, "card", "exec")
    assert "PeftModel.from_pretrained(model, name, revision=revision)" in snippet


SAID = {
    "world:seeds": "Texts of the generated world",
    "world:heldout": "Texts of the generated world",
    "world:exercises": "Texts of the generated world",
    "world:bge-m3": "A model of the generated world",
    "world:base": "A model of the generated world",
    "world:general": "A model of the generated world",
    "world:domain": "A model of the generated world",
    "seed": "The writing requests that a round of GRACE-KTO starts from",
    "sft": "The policy that a GRACE-KTO run starts from",
    "format": "Writing requests with their reference documents in the tagged form",
    "generate": "New writing requests, written by the policy of this round",
    "sample": "Groups of 8 responses to each query of the round",
    "criteria": "Five criteria for each writing query of a round",
    "rate": "Ratings of the documents that a policy wrote",
    "score": "The sampled responses with the raw metrics",
    "calibrate": "Responses with ranks in their group, a group reward, a signed weight and a label",
    "policy": "The policy after round 1 of GRACE-KTO",
    "answers": "Answers of one policy to held-out queries",
    "comparisons": "Pairs of answers by two policies to the same held-out queries",
    "evaluations": "Answers of a policy to held-out queries, with automatic metrics and a judge",
}
OF_A_MODEL = ["How it was made", "Results of the training run", "Load", "Reproduce", "Known limits", "Licence"]


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("stage_name", [*DATASETS, *MODELS])
def test_every_stage_has_a_card_from_its_own_template(stage_name: str, published: bool, tmp_path: Path) -> None:
    manifest = made(tmp_path, stage_name)
    text = card_of(manifest, tmp_path, published=published)
    assert text.split("\n---\n\n# ")[1].split("\n\n")[1].startswith(SAID[stage_name])
    assert "| pipeline | `grace-kto` |" in text and f"| stage | `{stage_name}`, version 1 |" in text
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    expected = OF_A_MODEL if stage_name in MODELS else ["One row", "How it was made", "Columns", "Statistics", "Load"]
    assert headings[: len(expected)] == expected
    # Nobody has to cite the generated world.
    assert (headings[-1] == "Citation") == ("bibtex" in text) == (not stage_name.startswith("world:"))
    for snippet in fences(text, "python"):
        compile(snippet, "card", "exec")
    assert not re.search(r"\{[{%]", re.sub(r"^```jinja$.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))
    assert front_matter(text)["tags"][:3] == ["grace-kto", f"stage-{stage_name}", "long-form-writing"]
    assert manifest.repo in fences(text, "python")[0]
    assert ("local_files_only=True" in fences(text, "python")[0]) == (not published)


def test_how_the_work_was_done_stands_apart_from_what_decides_the_data(tmp_path: Path) -> None:
    manifest = snapshot(tmp_path, "sample", bytes_depend_on=["kind of processor", "batches"])
    before, _, after = card_of(manifest, tmp_path).partition(
        "How the work was done, which decides time and memory alone:"
    )
    assert "| `engines.policy.dtype` | `float32` |" in before and "engines.policy.batch_size" not in before
    assert "| `engines.policy.batch_size` | `256` |" in after and "| `engines.policy.device` | `cpu` |" in after
    assert "Beyond the settings above the exact bytes depend on: kind of processor, batches." in after
    assert "every random draw comes from a hash of it" in after
    scores = card_of(snapshot(tmp_path, "calibrate"), tmp_path)
    assert "How the work was done" not in scores and "the exact bytes depend on" not in scores
    assert "Nothing in this stage is random" in scores


def test_a_stage_of_another_pipeline_has_a_card_too(tmp_path: Path) -> None:
    """The common template, the stage's own columns, and nothing of GRACE-KTO."""
    config = toy_config(tmp_path / "store", workers=1)
    built = {result.stage: result.revision for result in run(TOY, config, "totals")}
    numbers, fold, totals = built["numbers"], built["fold-1"], built["totals"]
    text = (totals.path / "README.md").read_text(encoding="utf-8")
    assert "| pipeline | `toy` |" in text and "| stage | `totals`, version 1 |" in text
    data = front_matter(text)
    assert data["tags"] == ["toy", "stage-totals", "long-form-writing", "totals"]
    assert [feature["name"] for feature in data["dataset_info"]["features"]] == ["number", "fold", "total"]
    assert "| `total` | float64 | never | sum of what the models of all folds hold |" in text
    assert json.loads(fences(text, "json")[0])["total"] == 870.0  # every number is in two folds' models: 2 · 435
    assert f"| fold-1 | `{fold}` (local) |" in text and f"| numbers | `{numbers}` (local) |" in text
    assert fences(text, "bash") == [f"build --stage totals --from {numbers} --config grace.yaml\n"]
    first = (numbers.path / "README.md").read_text(encoding="utf-8")
    assert fences(first, "bash") == [
        f"build --stage totals --from {numbers}\n",
        "build --stage numbers --config grace.yaml\n",
    ]
    model = (fold.path / "README.md").read_text(encoding="utf-8")
    assert f"train --stage fold-1 --dataset {numbers.repo} --revision {numbers.revision} --config grace.yaml" in model
    assert all("grace-kto" not in card.lower() for card in (text, first, model))


def test_what_a_stage_says_of_its_card_is_shown(tmp_path: Path) -> None:
    """Facts, example, words and recipe of a stage come from its `Card`, in any pipeline."""

    def recipe(manifest: Manifest, value: dict[str, Any]) -> dict[str, Any]:
        return value | {"essays": {"prompt": manifest.repo}}

    card = Card(
        "grace_kto/seed.md.jinja",
        tags=("essays",),
        annotated=True,
        written=True,
        facts=lambda manifest, folder: {"source_name": f"{manifest.stage} in {folder.name}"},
        recipe=recipe,
        example="matched",
        read="essays read",
    )
    page = Page(
        card, "essays", "build --stage essays", "paper-72b", GRACE_KTO.stage("sample").columns, "sample", "next"
    )
    manifest = snapshot(tmp_path, "sample", pipeline="essays", configuration={"seed": {"license": "mit"}})
    write_card(manifest, tmp_path, page, Store(tmp_path / "store"))
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert f"Read from `sample in {tmp_path.name}`." in text
    assert "| essays read | 10 |" in text
    assert json.loads(fences(text, "json")[0])["matched"] is True
    assert {"essays", "stage-sample"} <= set(front_matter(text)["tags"])
    assert (
        front_matter(text)["annotations_creators"] == front_matter(text)["language_creators"] == ["machine-generated"]
    )
    assert yaml.safe_load(fences(text, "yaml")[0]) == {
        "preset": "paper-72b",
        "name": "demo-groups",
        "random_seed": 7,
        "seed": {"license": "mit"},
        "engines": {"policy": {"batch_size": 256, "device": "cpu"}},
        "essays": {"prompt": "local/demo-groups"},
    }
    assert fences(text, "bash")[0] == f"next --from local/demo-groups@{manifest.revision}\n"


@pytest.mark.parametrize("kind", ["transformers", "vllm"])
def test_a_manifest_of_format_1_has_a_card_whose_reproduction_file_can_be_read(kind: str, tmp_path: Path) -> None:
    manifest = snapshot(tmp_path, "sample", models={"policy": Model(id="local/demo-policy", revision=COMMIT)})
    engine = {"batch_size": 32, "context_window": None, "device": "cpu", "dtype": "float32", "kind": kind}
    sample = {"max_new_tokens": 300, "responses": 6, "system_prompt": None, "temperature": 0.5, "top_p": 0.8}
    value = manifest.model_dump() | {
        "format": 1,
        "configuration": {"engine": engine | {"tensor_parallel": 1, "yarn_factor": None}, "sample": sample},
        "parents": [{"stage": "generate", "repo": "local/demo-queries", "revision": COMMIT, "digest": DIGEST}],
    }
    for name in ("pipeline", "execution", "bytes_depend_on"):
        del value[name]
    (tmp_path / "manifest.json").write_text(json.dumps(value), encoding="utf-8")
    read = read_manifest(tmp_path)
    assert read is not None
    text = card_of(read, tmp_path)
    assert f"| generate | `local/demo-queries@{COMMIT}` (local) |" in text
    assert "Random seed `7`: every random draw comes from a hash of it" in text
    (tmp_path / "grace.yaml").write_text(fences(text, "yaml")[0], encoding="utf-8")
    config = load_config(str(tmp_path / "grace.yaml"))
    assert (config.engines.policy.kind, config.engines.policy.batch_size, config.random_seed) == (kind, 32, 7)
    assert (config.sample.responses, config.sample.top_p) == (6, 0.8)
    assert fences(text, "bash")[-1].startswith(f"build --stage sample --round 1 --from local/demo-queries@{COMMIT} ")


def test_a_revision_of_an_unknown_pipeline_or_stage_has_no_card(tmp_path: Path) -> None:
    manifest = snapshot(tmp_path, "sample", pipeline="essays")
    with pytest.raises(UserError, match=r"demo-groups: pipeline essays is unknown; pipelines: grace-kto"):
        page_of(manifest)
    with pytest.raises(
        UserError, match=r"demo-groups: pipeline grace-kto has no stage samples; stages: world:seeds, .*"
    ):
        page_of(manifest.model_copy(update={"pipeline": "grace-kto", "stage": "samples"}))


def test_model_card_of_a_local_whole_model(tmp_path: Path) -> None:
    manifest = model_manifest(
        "sft", Model(id="world:base", revision=DIGEST), repo="local/demo-sft", round=0, parents=[]
    )
    text = card_of(manifest, tmp_path)
    data = front_matter(text)
    assert "base_model" not in data and "datasets" not in data and data["library_name"] == "transformers"
    assert "sft" in data["tags"] and "kto" not in data["tags"]
    assert fences(text, "bash") == ["train --stage sft --config grace.yaml\n"]
    (snippet,) = fences(text, "python")
    compile(snippet, "card", "exec")
    assert "local_files_only=True" in snippet
    write_card(manifest, tmp_path, page_of(manifest), Store(tmp_path / "store"), license="mit")
    written = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert front_matter(written) == {**data, "license": "mit"}


def training_snippet(text: str) -> str:
    section = text.split("## Train with TRL\n")[1].split("\n## ")[0]
    (snippet,) = fences(section, "python")
    return snippet


@pytest.mark.slow
def test_the_training_snippet_runs_with_stock_trl(
    tmp_path: Path, causal_lm_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    store = Store(tmp_path / ".grace" / "store")
    store.root.mkdir(parents=True)
    manifest = snapshot(tmp_path / "staged", "calibrate")
    write_card(manifest, tmp_path / "staged", page_of(manifest), store)
    revision = store.add(tmp_path / "staged", manifest, ["main", "round-001"])
    snippet = training_snippet((revision.path / "README.md").read_text(encoding="utf-8"))
    assert SNIPPET_MODEL in snippet
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    scope: dict[str, Any] = {}
    exec(compile(snippet.replace(SNIPPET_MODEL, str(causal_lm_dir)), "card", "exec"), scope)  # noqa: S102
    assert scope["trainer"].state.global_step == 2
    assert (tmp_path / "kto" / "model.safetensors").is_file()


def test_published_and_local_snippets_load_differently(tmp_path: Path) -> None:
    manifest = snapshot(tmp_path, "calibrate", repo="somebody/demo-weights")
    public = training_snippet(card_of(manifest, tmp_path, published=True))
    assert 'load_dataset("somebody/demo-weights", revision="round-001", split="train")' in public
    compile(public, "card", "exec")
    local = card_of(manifest, tmp_path)
    assert f'revision="{manifest.revision}", cache_dir=' in training_snippet(local)


@pytest.mark.parametrize("stage_name", [*(stage.name for stage in GRACE_KTO.stages if stage.kind == "dataset"), "sft"])
def test_a_local_card_names_its_revision_where_a_reader_takes_it_up(stage_name: str, tmp_path: Path) -> None:
    """The tag of a store moves: a card of before the rebuild would load other data than it describes."""
    if GRACE_KTO.stage(stage_name).kind == "model":
        manifest = model_manifest(stage_name, Model(id="x/y", revision=COMMIT))
    else:
        manifest = snapshot(tmp_path, stage_name, repo="somebody/demo-rows")
    tag = f"round-{manifest.round:03d}"
    local, public = (card_of(manifest, tmp_path, published=published) for published in (False, True))
    commands = [text for kind in ("bash", "python") for text in fences(local, kind)]
    assert sum(manifest.revision in text for text in commands) >= 1 + (stage_name in ("generate", "sample", "score"))
    assert not any(tag in text for text in commands) and f"--revision {tag}" not in local
    assert manifest.revision not in public and f'"{tag}"' in public


def test_templates_name_no_machine() -> None:
    for path in TEMPLATES.rglob("*.jinja"):
        assert not re.search(r"/(home|root|tmp|work)/", path.read_text(encoding="utf-8"))
