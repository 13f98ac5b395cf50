"""Configuration: presets, overrides and the messages for mistakes."""

from pathlib import Path

import pytest

from builders.grace_kto.settings import GraceKTOSettings
from builders.settings.load import preset_names, preset_text, read_yaml
from scorers.errors import UserError
from training.pipelines import load_config


@pytest.mark.parametrize("preset", preset_names())
def test_presets_are_complete(preset: str) -> None:
    assert load_config(preset).name == read_yaml(preset_text(preset))["name"]


def test_the_presets_that_come_with_the_package() -> None:
    assert preset_names() == ("paper-72b", "qwen2.5-0.5b", "tiny")


def test_the_paper_preset_holds_the_papers_settings() -> None:
    config = load_config("paper-72b")
    assert (config.generate.queries, config.sample.responses, config.loop.rounds) == (250, 8, 4)
    assert (config.train.method, config.train.lora_rank, config.train.batch_size) == ("qlora", 64, 8)
    assert (config.train.learning_rate, config.train.learning_rate_end, config.train.warmup_ratio) == (5e-6, 1e-6, 0.1)
    assert (config.train.beta, config.train.mu, config.train.attention) == (0.05, 0.1, "flash_attention_2")
    assert (config.sft.learning_rate, config.sft.epochs) == (1e-6, 1.0)
    assert config.engines.policy.kind == "vllm" and config.engines.policy.context_window == 32768


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
        ("tiny", ["nonsense"], ["nonsense", "section.key=value"]),
        ("tiny", ["name.x=1"], ["name is a value"]),
        ("tiny", ["generate.queries=[1"], ["[1", "not a YAML value"]),
        ("tiny", ["train.batch_size=6"], ["batch_size 6", "device_batch_size 16"]),
        ("tiny", ["train.lambdas=equal"], ["tiny: train.lambdas is 'equal': input should be 'balanced'"]),
        ("tiny", ["engine.kind=vllm"], ["unknown key engine, did you mean engines?"]),
        ("tiny", ["world=null"], ["world is None"]),
        ("tiny", ["random_seed=-1"], ["tiny: random_seed is -1: input should be greater than or equal to 0"]),
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
    assert str(error.value) == f"{path}: pipeline: writing is unknown; pipelines: grace-kto"
    # A file that names no pipeline is the first one's.
    path.write_text("name: x\nmodels: {base: b, general: g, domain: d, relevance: r}\nseed: {source: s.jsonl}\n")
    path.write_text(path.read_text() + "evaluate: {source: e.jsonl}\n")
    assert load_config(str(path)).pipeline == "grace-kto"


def test_one_mistake_is_told_once() -> None:
    # Every section's seed follows from this one.
    with pytest.raises(UserError) as error:
        load_config("tiny", ["random_seed=many"])
    assert str(error.value) == "preset tiny: random_seed is 'many': input should be a valid integer"


def test_init_writes_a_file_that_loads(tmp_path: Path) -> None:
    from builders.settings.write import write_config

    path = write_config(str(tmp_path / "grace.yaml"), GraceKTOSettings)
    assert load_config(str(path)) == load_config("tiny")
    assert "# top_p: 0.9" in path.read_text().replace("#   ", "# ")
    with pytest.raises(UserError, match="exists already"):
        write_config(str(path), GraceKTOSettings)
