"""Cards: every section from the manifest, and hostile text that changes nothing but itself."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from card_snapshots import COMMIT, DIGEST, MARKDOWN, fences, front_matter, model_manifest, snapshot
from jinja2 import UndefinedError

from builders.cards.render import (
    SNIPPET_MODEL,
    TEMPLATES,
    environment,
    languages_of,
    portable,
    render_dataset_card,
    render_model_card,
    write_card,
    write_weight_histogram,
)
from builders.store.columns import frame_of
from builders.store.manifest import DataFile, Model, Parent, Rows, read_manifest
from builders.store.shards import write_shard
from builders.store.store import Store
from training.grace_kto.pipeline import GRACE_KTO
from training.pipelines import STAGE_NAMES, load_config

HOSTILE = "``` ```` <script>alert(1)</script> | a | {{ manifest }} {% raw %}\n---\n# title\n</details>\n\u202e $$x$$"


def test_values_are_escaped_unless_a_template_says_otherwise_and_never_rendered_again() -> None:
    made = environment().from_string("{{ a }} {{ a | code }} {{ n }} {{ x }}")
    assert made.render(a="{{ n }}|", n=3, x=0.123456) == ("&#123;{ n }}&#124; <code>&#123;{ n }}&#124;</code> 3 0.1235")
    with pytest.raises(UndefinedError, match="absent"):
        environment().from_string("{{ absent }}").render()


def test_every_stage_has_its_template() -> None:
    names = {path.name.removesuffix(".md.jinja") for path in TEMPLATES.glob("[!_]*.md.jinja")}
    assert names == {*STAGE_NAMES, "model"}


@pytest.mark.parametrize("stage_name", STAGE_NAMES)
def test_hostile_text_leaves_the_structure_as_it_is(stage_name: str, tmp_path: Path) -> None:
    def outline(text: str) -> list[tuple[str, str]]:
        tokens = MARKDOWN.parse(text.split("\n---\n", 1)[1])
        return [(t.type, t.tag) for t in tokens]

    calm = snapshot(tmp_path / "calm", stage_name, text="calm")
    wild = snapshot(
        tmp_path / "wild",
        stage_name,
        text=HOSTILE,
        repo=f"local/demo|{HOSTILE}-x",
        rows=Rows(read=10, written=9, dropped={HOSTILE: 1}),
        code_version=HOSTILE,
    )
    first, second = (render_dataset_card(m, tmp_path / n) for m, n in ((calm, "calm"), (wild, "wild")))
    assert outline(first) == outline(second)
    assert front_matter(first).keys() == front_matter(second).keys()
    assert json.loads(fences(second, "json")[0]).keys() == json.loads(fences(first, "json")[0]).keys()
    assert "\u202e" not in second
    outside = re.sub(r"^(`{3,}).*?^\1$", "", second.split("\n---\n", 1)[1], flags=re.MULTILINE | re.DOTALL)
    assert "<script" not in outside and "{{" not in outside


def test_equal_manifests_give_equal_bytes(tmp_path: Path) -> None:
    written = []
    for name in ("a", "b"):
        manifest = snapshot(tmp_path / name, "calibrate")
        write_card(manifest, tmp_path / name, Store(tmp_path / "store"))
        written.append([(tmp_path / name / file).read_bytes() for file in ("README.md", "weights.png")])
    assert written[0] == written[1]
    manifest = snapshot(tmp_path / "c", "calibrate", random_seed=8)
    assert render_dataset_card(manifest, tmp_path / "c").encode() != written[0][0]


@pytest.mark.parametrize("stage_name", STAGE_NAMES)
def test_a_manifest_read_back_gives_the_same_card(stage_name: str, tmp_path: Path) -> None:
    manifest = snapshot(tmp_path, stage_name)
    (tmp_path / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    assert render_dataset_card(read_manifest(tmp_path) or manifest, tmp_path) == render_dataset_card(manifest, tmp_path)
    assert list((read_manifest(tmp_path) or manifest).configuration) == sorted(manifest.configuration)


def test_sections_and_statistics_come_from_the_manifest(tmp_path: Path) -> None:
    manifest = snapshot(tmp_path, "calibrate")
    text = render_dataset_card(manifest, tmp_path)
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
    assert "weights.png" not in text
    write_weight_histogram(tmp_path)
    assert "](weights.png)" in render_dataset_card(manifest, tmp_path)


def test_the_example_is_the_first_matched_row_cut(tmp_path: Path) -> None:
    manifest = snapshot(tmp_path, "sample", text="x" * 400)
    row = json.loads(fences(render_dataset_card(manifest, tmp_path), "json")[0])
    assert row["matched"] is True and row["num_tokens"] == 1
    assert row["response"] == "x" * 240 + "… (162 more characters)"


def test_parents_and_models_are_links_only_where_they_can_be_looked_up(tmp_path: Path) -> None:
    tree = f"https://huggingface.co/datasets/somebody/demo-groups/tree/{COMMIT}"
    mine = [Parent(stage="sample", repo="somebody/demo-groups", revision=COMMIT, digest=DIGEST)]
    manifest = snapshot(tmp_path, "score", repo="somebody/demo-scores", parents=mine)
    local = render_dataset_card(manifest, tmp_path)
    assert tree not in local and f"`somebody/demo-groups@{COMMIT}` (local)" in local
    assert "source_datasets" not in front_matter(local)
    public = render_dataset_card(manifest, tmp_path, published=True)
    assert f"({tree})" in public and front_matter(public)["source_datasets"] == ["somebody/demo-groups"]
    for text in (local, public):
        assert f"(https://huggingface.co/Qwen/Qwen2.5-0.5B/tree/{COMMIT})" in text
        assert f"| tokenizer | `local/demo-sft@{COMMIT}` (local) |" in text
        assert f"<code>bge&#124;&#60;b&#62;@{DIGEST}</code> (local)" in text
    foreign = snapshot(tmp_path, "score", parents=mine)
    assert f"({tree})" in render_dataset_card(foreign, tmp_path)


def test_no_folder_of_this_machine_is_shown(tmp_path: Path) -> None:
    assert portable({"a": {"source": "/home/me/seeds.jsonl"}, "b": "x/y", "c": 1}) == {
        "a": {"source": "seeds.jsonl"},
        "b": "x/y",
        "c": 1,
    }
    assert portable({"a": ("x", "/y/z")}) == {"a": ["x", "z"]}
    configuration = {"seed": load_config("tiny", [f"seed.source={tmp_path}/my.jsonl"]).seed.model_dump()}
    text = render_dataset_card(snapshot(tmp_path, "seed", configuration=configuration), tmp_path)
    assert str(tmp_path) not in text and "Read from `my.jsonl`" in text


@pytest.mark.parametrize("stage_name", STAGE_NAMES)
def test_the_reproduction_file_is_a_configuration_with_the_same_settings(stage_name: str, tmp_path: Path) -> None:
    manifest = snapshot(tmp_path, stage_name)
    text = render_dataset_card(manifest, tmp_path)
    (tmp_path / "grace.yaml").write_text(fences(text, "yaml")[0], encoding="utf-8")
    config = load_config(str(tmp_path / "grace.yaml"))
    assert {name: getattr(config, name).model_dump() for name in manifest.configuration} == manifest.configuration
    assert (config.random_seed, config.name, config.local_namespace) == (7, "demo", "local")
    start = f" --from {manifest.parents[0].repo}@{COMMIT}" if manifest.parents else ""
    round_ = " --round 1" if stage_name != "seed" else ""
    assert fences(text, "bash")[-1] == f"build --stage {stage_name}{round_}{start} --config grace.yaml\n"
    if stage_name == "calibrate":
        assert config.sample.system_prompt == "system.en"
    if stage_name == "score":
        assert config.models.general == f"Qwen/Qwen2.5-0.5B@{COMMIT}" and config.models.domain == "world:domain"
    assert (config.world is None) == (stage_name not in ("seed", "score"))


def test_language_comes_from_the_nearest_ancestor_with_the_column(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    queries = snapshot(tmp_path / "queries", "generate", parents=[])
    parent = store.add(tmp_path / "queries", queries, ["main"])
    link = Parent(stage="generate", repo=parent.repo, revision=parent.revision, digest=DIGEST)
    groups = snapshot(tmp_path / "groups", "sample", parents=[link])
    assert languages_of(groups, tmp_path / "groups", store) == ["en", "zh-CN"]
    write_card(groups, tmp_path / "groups", store)
    assert front_matter((tmp_path / "groups/README.md").read_text(encoding="utf-8"))["language"] == ["en", "zh"]
    strange = groups.model_copy(update={"parents": [link.model_copy(update={"repo": "no name"})]})
    assert languages_of(strange, tmp_path / "groups", store) == []
    assert "language" not in front_matter(render_dataset_card(groups, tmp_path / "groups"))


def test_histogram(tmp_path: Path) -> None:
    snapshot(tmp_path, "calibrate")
    path = write_weight_histogram(tmp_path)
    assert path == tmp_path / "weights.png" and path.read_bytes().startswith(b"\x89PNG")
    assert b"Software" not in path.read_bytes() and b"tIME" not in path.read_bytes()
    snapshot(tmp_path / "scores", "score")
    assert write_weight_histogram(tmp_path / "scores") is None
    assert write_weight_histogram(tmp_path / "nothing") is None


def test_an_empty_dataset_has_a_card(tmp_path: Path) -> None:
    stage = GRACE_KTO.stage("seed")
    path = tmp_path / "data" / "train-00000-of-00001.parquet"
    path.parent.mkdir()
    write_shard(frame_of([], stage.columns), stage.columns, path, {"read": 0})
    files = [DataFile(path="data/train-00000-of-00001.parquet", size=path.stat().st_size, sha256=DIGEST, rows=0)]
    manifest = snapshot(tmp_path / "other", "seed", files=files, rows=Rows(read=0, written=0))
    text = render_dataset_card(manifest, tmp_path)
    assert "There is no row." in text and front_matter(text)["dataset_info"]["dataset_size"] == 0


def test_model_card_of_a_published_adapter(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    (tmp_path / "adapter_config.json").write_text("{}")
    manifest = model_manifest("train", Model(id="Qwen/Qwen2.5-0.5B", revision=COMMIT))
    text = render_model_card(manifest, tmp_path, published=True, languages=["en"])
    card = ModelCard(text)
    assert str(card) == text == render_model_card(manifest, tmp_path, published=True, languages=["en"])
    data = front_matter(text)
    assert data["base_model"] == "Qwen/Qwen2.5-0.5B" and data["base_model_relation"] == "adapter"
    assert data["datasets"] == ["somebody/demo-weights"] and data["library_name"] == "peft"
    assert {"trl", "kto", "grace-kto"} <= set(data["tags"]) and data["license"] == "apache-2.0"
    assert f"/datasets/somebody/demo-weights/tree/{COMMIT}" in text
    assert "| `loss` | 0.4877 |" in text and "| `rewards/chosen` | 0.1 |" in text
    command = f"train --dataset somebody/demo-weights --revision {COMMIT} --round 2 --config grace.yaml\n"
    assert fences(text, "bash") == [command]
    (snippet,) = fences(text, "python")
    compile(snippet, "card", "exec")
    assert "PeftModel.from_pretrained(model, name, revision=revision)" in snippet


def test_model_card_of_a_local_whole_model(tmp_path: Path) -> None:
    manifest = model_manifest(
        "sft", Model(id="world:base", revision=DIGEST), repo="local/demo-sft", round=0, parents=[]
    )
    text = render_model_card(manifest, tmp_path)
    data = front_matter(text)
    assert "base_model" not in data and "datasets" not in data and data["library_name"] == "transformers"
    assert "sft" in data["tags"] and "kto" not in data["tags"]
    assert fences(text, "bash") == ["train --sft --config grace.yaml\n"]
    (snippet,) = fences(text, "python")
    compile(snippet, "card", "exec")
    assert "local_files_only=True" in snippet
    write_card(manifest, tmp_path, Store(tmp_path / "store"), license="mit")
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
    write_card(manifest, tmp_path / "staged", store)
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
    public = training_snippet(render_dataset_card(manifest, tmp_path, published=True))
    assert 'load_dataset("somebody/demo-weights", revision="round-001", split="train")' in public
    compile(public, "card", "exec")
    assert "snapshot_download(" in training_snippet(render_dataset_card(manifest, tmp_path))


def test_templates_name_no_machine() -> None:
    for path in TEMPLATES.glob("*.jinja"):
        assert not re.search(r"/(home|root|tmp|work)/", path.read_text(encoding="utf-8"))
