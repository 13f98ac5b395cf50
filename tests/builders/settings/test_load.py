"""Configuration: presets, overrides and the messages for mistakes."""

import json
import os
from pathlib import Path

import pytest
import yaml

from builders.grace_kto.settings import GraceKTOSettings
from builders.settings.base import identities, identity, section_at
from builders.settings.context import ContextSettings
from builders.settings.load import located, preset_names, preset_text
from builders.settings.write import describe
from builders.settings.yaml_text import read_yaml
from builders.store.manifest import portable
from scorers.errors import UserError
from training.pipelines import configuration, load_config


@pytest.mark.parametrize("preset", preset_names())
def test_presets_are_complete(preset: str) -> None:
    assert load_config(preset).name == read_yaml(preset_text(preset))["name"]


def test_the_presets_that_come_with_the_package() -> None:
    grace, writing, editing = ("paper-72b", "qwen2.5-0.5b", "qwen2.5-7b", "tiny"), "writingbench", "rationalign"
    assert set(preset_names()) == {*grace, f"tiny-{writing}", f"{writing}-7b", f"tiny-{editing}", f"{editing}-8b"}


def test_the_paper_preset_holds_the_papers_settings() -> None:
    config = load_config("paper-72b")
    assert (config.generate.queries, config.sample.responses, config.loop.rounds) == (250, 8, 4)
    assert (config.train.method, config.train.lora_rank, config.train.batch_size) == ("qlora", 64, 8)
    assert (config.train.learning_rate, config.train.learning_rate_end, config.train.warmup_ratio) == (5e-6, 1e-6, 0.1)
    assert (config.train.beta, config.train.mu, config.train.attention) == (0.05, 0.1, "flash_attention_2")
    assert (config.sft.learning_rate, config.sft.epochs) == (1e-6, 1.0)
    assert config.engines.policy.kind == "vllm"
    assert config.engines.policy.context == ContextSettings(method="yarn", window=32768)


def test_overrides_apply_to_nested_keys() -> None:
    overrides = ["generate.queries=7", "train.mu=0.25", "sample.system_prompt=system.zh", "train.learning_rate=1e-3"]
    config = load_config("tiny", overrides)
    assert (config.generate.queries, config.train.mu, config.sample.system_prompt) == (7, 0.25, "system.zh")
    assert config.train.learning_rate == 0.001


def test_a_file_adds_to_a_preset(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("preset: tiny\nname: mine\ngenerate: {queries: 5}\n")
    config = load_config(str(path))
    assert (config.name, config.generate.queries, config.generate.prompt) == ("mine", 5, "generate.tiny")


def test_an_unknown_key_is_told_before_the_one_that_is_missing_for_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(preset_text("tiny").replace("models:", "model:"))
    with pytest.raises(UserError, match=r"unknown key model, did you mean models\?"):
        load_config(str(path))


def test_the_working_directorys_file_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(None).name == "tiny"
    Path("grace.yaml").write_text("preset: tiny\nname: here\n")
    assert load_config(None).name == "here"


@pytest.mark.parametrize(
    ("source", "overrides", "words"),
    [
        ("tinny", [], ["tinny", "did you mean tiny?", "paper-72b"]),
        ("tiny", ["generate.querys=3"], ["generate.querys", "did you mean queries?", "allowed there"]),
        ("tiny", ["sample.top_p=1.5"], ["sample.top_p", "1.5", "less than or equal to 1"]),
        ("tiny", ["generate.queries='12'"], ["generate.queries", "'12'", "valid integer"]),
        ("tiny", ["train.kl=mismatch"], ["train.kl", "'mismatch'", "'mismatched'"]),
        ("tiny", ["variant=stedy"], ["--set: variant is 'stedy': input should be 'paper' or 'steady'"]),
        ("tiny", ["train=5"], ["--set: train is 5"]),
        ("tiny", ["calibrate.coefficients=null"], ["--set: calibrate.coefficients is None"]),
        ("tiny", ["train.lambdas=0.5"], ["train.lambdas is 0.5: expected balanced, or two numbers of at least 0"]),
        ("tiny", ["train.lambdas=[1,-1]"], ["train.lambdas is [1, -1]: expected balanced, or two numbers"]),
        ("tiny", ["nonsense"], ["nonsense", "section.key=value"]),
        ("tiny", ["name.x=1"], ["--set name.x: name is a value"]),
        *(("tiny", [f"{path}=3"], ["expected section.key=value"]) for path in (".", "a..b", "loop.", ".loop", "")),
        ("tiny", ["name=&a [*a]"], ["--set name=&a [*a]", "not a YAML value"]),
        ("tiny", ["name={2020-01-01: x}"], ["not a YAML value", "keys must be"]),
        ("tiny", [f"name={'[' * 2000}"], ["not a YAML value", "nested too deeply"]),
        ("tiny", ["seed.columns={query: a, query: b}"], ["the key query stands on line 1 and again on line 1"]),
        ("tiny", ["loop.rounds=99999999999"], ["loop.rounds is 99999999999", "less than or equal to 10000"]),
        ("tiny", ["generate.prompt=generate.zz"], ["no such prompt, did you mean generate.zh?; prompts: format,"]),
        ("tiny", ["generate.prompt=format"], ["generate.prompt is 'format'", "should match pattern '^generate"]),
        ("tiny", ["sample.system_prompt=system.cn"], ["no such prompt", "system.en, system.zh"]),
        ("tiny", [f"name={'x' * 3000}"], ["--set: name is 'xxx", "xxx…: string should match"]),
        ("tiny", ["generate.queries=[1"], ["[1", "not a YAML value"]),
        ("tiny", ["train.batch_size=6"], ["batch_size 6", "device_batch_size 16"]),
        ("tiny", ["train.lambdas=equal"], ["--set: train.lambdas is 'equal': expected balanced, or two numbers"]),
        ("tiny", ["engine.kind=vllm"], ["unknown key engine, did you mean engines?"]),
        ("tiny", ["world=null"], ["world is None"]),
        ("tiny", ["random_seed=-1"], ["--set: random_seed is -1: input should be greater than or equal to 0"]),
        ("tiny", ["pipeline=grace-kt"], ["grace-kt is unknown, did you mean grace-kto?; pipelines: grace-kto"]),
        ("tiny", ["pipeline=null"], ["pipeline: None is unknown; pipelines: grace-kto"]),
    ],
)
def test_mistakes_are_one_helpful_line(source: str, overrides: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        load_config(source, overrides)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("name", GraceKTOSettings.VARIANTS)
def test_a_variant_takes_the_place_of_a_presets_values_alone(name: str, tmp_path: Path) -> None:
    own = {path: str(value) for path, value in GraceKTOSettings.VARIANTS[name].items()}
    for preset in (preset for preset in preset_names() if load_config(preset).pipeline == "grace-kto"):
        found = configuration(preset, [f"variant={name}"])
        assert {path: str(_plain(section_at(found.settings, path))) for path in own} == own
    # What the user sets himself counts, in a file as by --set.
    path = tmp_path / "mine.yaml"
    path.write_text(f"preset: tiny\nvariant: {name}\ntrain: {{mu: 0.3}}\n")
    mine = configuration(str(path), ["calibrate.coefficients.length=9.0"])
    origins = {path: origin for path, _, origin in describe(mine)}
    assert isinstance(mine.settings, GraceKTOSettings)
    coefficients = mine.settings.calibrate.coefficients
    assert (mine.settings.train.mu, origins["train.mu"]) == (0.3, "mine.yaml")
    assert (coefficients.length, origins["calibrate.coefficients.length"]) == (9.0, "--set")
    assert coefficients.diversity == GraceKTOSettings.VARIANTS[name]["calibrate.coefficients.diversity"]
    assert origins["calibrate.coefficients.diversity"] == f"variant {name}"


def test_the_variant_paper_is_what_counts_without_one() -> None:
    assert "variant" not in identity(load_config("tiny"))
    assert GraceKTOSettings.VARIANTS["paper"].keys() == GraceKTOSettings.VARIANTS["steady"].keys()
    config = load_config("qwen2.5-7b")
    assert config.variant == "paper"
    for path, value in GraceKTOSettings.VARIANTS["paper"].items():
        section, _, key = path.rpartition(".")
        assert type(section_at(config, section)).model_fields[key].default == value


def _plain(value: object) -> object:
    """A tuple as the list that YAML has."""
    return list(value) if isinstance(value, tuple) else value


def test_a_file_that_is_no_yaml(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("a: [1\n")
    with pytest.raises(UserError, match="not readable as YAML"):
        load_config(str(path))
    path.write_text("- 1\n")
    with pytest.raises(UserError, match="mapping of sections"):
        load_config(str(path))
    path.write_text("name: x\n")
    with pytest.raises(UserError, match="models is missing"):
        load_config(str(path))


def test_the_pipeline_that_is_named_decides_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("preset: tiny\npipeline: grace-kto\n")
    assert isinstance(load_config(str(path)), GraceKTOSettings)
    path.write_text("preset: tiny\npipeline: writing\n")
    with pytest.raises(UserError) as error:
        load_config(str(path))
    known = "did you mean writingbench?; pipelines: grace-kto, writingbench, rationalign"
    assert str(error.value) == f"{path}: pipeline: writing is unknown, {known}"
    # A file that names no pipeline is the first one's.
    path.write_text("name: x\nmodels: {base: b, general: g, domain: d, relevance: r}\nseed: {source: s.jsonl}\n")
    path.write_text(path.read_text() + "evaluate: {source: e.jsonl}\n")
    assert load_config(str(path)).pipeline == "grace-kto"


def test_one_mistake_is_told_once() -> None:
    # Every section's seed follows from this one.
    with pytest.raises(UserError) as error:
        load_config("tiny", ["random_seed=many"])
    assert str(error.value) == "--set: random_seed is 'many': input should be a valid integer"


def test_a_mistake_is_laid_to_where_it_was_made(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("preset: tiny\nsample: {top_p: 3.0}\n")
    with pytest.raises(UserError, match=f"^{path}: sample.top_p is 3.0: input should be less"):
        load_config(str(path))
    # The file is as it was, the mistake is on the command line.
    with pytest.raises(UserError, match=r"^--set: sample.top_p is 4: input should be less"):
        load_config(str(path), ["sample.top_p=4"])
    with pytest.raises(UserError, match=r"^--set: unknown key sample.topp, did you mean top_p"):
        load_config("tiny", ["sample.topp=1"])
    # What depends on two settings counts as a mistake of the last one that was set.
    with pytest.raises(UserError, match=r"^--set: train is .*batch_size 6 is not a multiple of device_batch_size 16"):
        load_config("tiny", ["train.batch_size=6"])


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("preset: tiny\nname: a\n\nname: b\n", "name", (2, 4)),
        ("preset: tiny\nsample:\n  top_p: 0.5\n  # again\n  top_p: 0.6\n", "top_p", (3, 5)),
        ("sample: {top_p: 0.5}\npreset: tiny\nsample: {responses: 2}\n", "sample", (1, 3)),
    ],
)
def test_a_key_that_stands_twice_is_refused(tmp_path: Path, text: str, key: str, lines: tuple[int, int]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        load_config(str(path))
    expected = f"the key {key} stands on line {lines[0]} and again on line {lines[1]}; keep one"
    assert str(error.value) == f"{path}: not readable as YAML: {expected}"


def test_a_merged_key_is_not_a_repeated_one() -> None:
    assert read_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: {<<: *a}") == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 3, "y": 2},
        "c": {"x": 1, "y": 2},
    }


def test_paths_of_a_file_count_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "conf"
    (folder / "models" / "mine").mkdir(parents=True)
    (folder / "sft").mkdir()  # a stage's name, which no folder takes over
    (folder / "seeds.jsonl").write_text("")
    (folder / "mine.yaml").write_text(
        "preset: tiny\nstore: kept\nseed: {source: seeds.jsonl}\nevaluate: {source: ../missing.csv}\n"
        "models: {policy: sft, domain: models/mine, general: alice/model, base: ~/model}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    config = load_config("conf/mine.yaml", ["models.relevance=conf/models"])
    assert config.seed.source == str(folder / "seeds.jsonl")
    assert config.evaluate.source == str(tmp_path / "missing.csv")  # named where it was looked for
    assert config.models.domain == str(folder / "models/mine") and config.models.general == "alice/model"
    assert config.models.policy == "sft" and config.models.base == str(tmp_path / "model")
    assert config.models.relevance == str(folder / "models")  # on the command line from the working directory
    assert config.store == "conf/kept"
    # The same wherever the command is started; only the last part of a path is in an identity.
    monkeypatch.chdir(folder)
    here = load_config("mine.yaml", ["models.relevance=models"])
    assert here.model_copy(update={"store": config.store}) == config and here.store == "kept"
    (source,) = {portable(identities(found, ("seed",)))["seed"]["source"] for found in (here, config)}
    assert source == "seeds.jsonl"


def test_names_are_no_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (
        "world:seeds",
        "alice/seeds",
        "alice/seeds@round-001",
        "BAAI/bge-m3",
        "Qwen/Qwen2.5-0.5B",
        "",
    ):
        assert located(name, Path()) == name
    for path in ("./seeds", "../seeds", "a/b/c", "x.jsonl", "data/x.parquet", "~nobody-of-this-name", "/x", "x.csv.gz"):
        assert located(path, Path("conf")) == os.path.abspath(f"conf/{path}" if path[0] != "/" else path)


def test_where_each_value_comes_from(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("preset: tiny\nname: mine\nseed: {columns: {query: text}}\nrandom_seed: 7\n")
    found = configuration(str(path), ["sample.top_p=0.5", "engines.policy={kind: vllm}"], "there")
    lines = {path: (line.strip(), origin) for path, line, origin in describe(found)}
    assert lines["name"] == ("name: mine", "mine.yaml")
    assert lines["sample.top_p"] == ("top_p: 0.5", "--set")
    assert lines["sample.max_new_tokens"] == ("max_new_tokens: 400", "preset tiny")
    assert lines["sample.responses"] == ("responses: 8", "default")
    assert lines["seed.columns.query"] == ("query: text", "mine.yaml")
    assert lines["seed.columns.reference"] == ("reference: reference", "preset tiny")
    assert lines["train.seed"] == ("seed: 7", "random_seed")
    assert lines["store"] == ("store: there", "--store")
    # --set puts a whole section in the place of the preset's.
    assert lines["engines.policy.kind"] == ("kind: vllm", "--set")
    assert lines["engines.policy.batch_size"] == ("batch_size: 256", "default")
    assert lines["sample"] == ("sample:", None)


@pytest.mark.parametrize("preset", preset_names())
def test_the_lines_are_yaml_that_says_the_same(tmp_path: Path, preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sources = {
        "grace-kto": "seed.source='a # b: c.jsonl'",
        "writingbench": "taxonomy.source='a # b: c.jsonl'",
        "rationalign": "pairs.sources=[{source: 'a # b: c.jsonl', where: {x: 'y: z'}}]",
    }
    overrides = [
        "name=demo",
        sources[load_config(preset).pipeline],
        "engines.policy.chat_template_kwargs={a: 'ja: 是'}",
    ]
    found = configuration(preset, overrides)
    path = Path("whole.yaml")
    path.write_text("".join(f"{line}  # {origin}\n" for _, line, origin in describe(found)), encoding="utf-8")
    assert load_config(str(path)) == found.settings


def test_a_section_of_which_a_part_is_set_keeps_its_pipelines_other_defaults() -> None:
    config = load_config("writingbench-7b", ["writer={batch_size: 8}"])
    assert (config.writer.batch_size, config.writer.epochs, config.writer.learning_rate) == (8, 5.0, 7e-6)
    config = load_config("tiny-rationalign", ["mpo={steps: 3}", "random_seed=5"])
    assert (config.mpo.lora_rank, config.mpo.learning_rate, config.mpo.seed) == (16, 1e-5, 5)


def test_paths_in_a_list_of_sections_count_from_the_files_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    for name in ("a.txt", "b.txt", "c.txt"):
        (tmp_path / "here" / name).write_text("x\n")
    text = "preset: tiny-rationalign\npairs: {sources: [{source: a.txt, task: gec, references: [b.txt]}]}\n"
    (tmp_path / "here" / "mine.yaml").write_text(text)
    [found] = load_config(str(tmp_path / "here" / "mine.yaml")).pairs.sources
    assert found.source == str(tmp_path / "here" / "a.txt") and found.references == (str(tmp_path / "here" / "b.txt"),)
    monkeypatch.chdir(tmp_path / "here")
    [found] = load_config("tiny-rationalign", ["pairs.sources=[{source: c.txt, task: gec}]"]).pairs.sources
    assert found.source == str(tmp_path / "here" / "c.txt")


def test_a_fault_in_a_list_of_sections_is_named_by_its_number() -> None:
    with pytest.raises(UserError, match=r"^--set: unknown key pairs.sources.1.tassk, did you mean task\?"):
        load_config("tiny-rationalign", ["pairs.sources=[{source: a, task: gec}, {source: b, tassk: gec}]"])
    with pytest.raises(UserError, match=r"^--set: tasks.tone.metric is 'rouge': input should be 'maxmatch'"):
        load_config("tiny-rationalign", ["tasks={tone: {metric: rouge, edit: a, change: b, quality: c}}"])


def test_the_mapping_of_the_papers_sets_is_a_configuration() -> None:
    text = (Path(__file__).parents[3] / "docs" / "editing.md").read_text(encoding="utf-8")
    first, second = text.split("```yaml")[1:]
    for part in (first, second):
        values = read_yaml(part.partition("```")[0])
        config = load_config("rationalign-8b", [f"{name}={json.dumps(value)}" for name, value in values.items()])
    assert config.tasks["plain-law"].metric == "sari"


def test_a_date_is_read_alike_whatever_other_libraries_do_to_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = yaml.SafeLoader.yaml_constructors["tag:yaml.org,2002:str"]
    monkeypatch.setitem(yaml.SafeLoader.yaml_constructors, "tag:yaml.org,2002:timestamp", texts)
    with pytest.raises(UserError, match="keys must be"):
        load_config("tiny", ["name={2020-01-01: x}"])
