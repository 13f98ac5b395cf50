"""What every section shares: which settings decide the data, which only time and memory, and where seeds come from."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from pydantic import BaseModel

from builders.core.plan import configuration_of
from builders.grace_kto.settings import GraceKTOSettings
from builders.settings.base import ExecutorSettings, execution, executions, identity, section_at
from builders.settings.engines import TransformersEngineSettings
from builders.settings.kto import TrainSettings
from builders.settings.load import preset_names
from scorers.errors import UserError
from training.grace_kto.pipeline import GRACE_KTO
from training.pipelines import load_config

EXECUTION_CHANGES = {
    "engines.policy.device": "cuda",
    "engines.policy.batch_size": "3",
    "engines.teacher.device": "cuda",
    "engines.teacher.batch_size": "3",
    "engines.policy.tensor_parallel": "2",
    "engines.policy.pipeline_parallel": "2",
    "engines.policy.memory_share": "0.5",
    "engines.policy.sleep": "true",
    "evaluate.judge": "true",
    "evaluate.label": "round-3",
    "evaluate.other": "alice/answers",
    "evaluate.pairwise": "true",
    "loop.held_out": "3",
    "loop.max_cut": "0.5",
    "loop.min_matched": "0.4",
    "score.device": "cuda",
    "score.memory_share": "0.2",
    "score.tokens_per_batch": "99",
    "score.texts_per_batch": "7",
    "sft.device_batch_size": "2",
    "sft.gradient_checkpointing": "false",
    "sft.deepspeed": "null",
    "train.device_batch_size": "4",
    "train.gradient_checkpointing": "false",
    "train.save_steps": "5",
    "train.deepspeed": "null",
}
"""Every setting of GRACE-KTO that decides time and memory alone, with a value other than that of paper-72b."""

EVALUATED = ("answers", "evaluations", "comparisons")

OF_THE_RUN = {f"executor.{name}" for name in ExecutorSettings.model_fields}
"""Settings that no stage reads, so that no manifest has them."""


def sections(config: BaseModel, path: str = "") -> Iterator[tuple[str, BaseModel]]:
    """Every section of a configuration, sections within sections too, by its dotted path."""
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            yield f"{path}{name}", value
            yield from sections(value, f"{path}{name}.")


def leaves(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Single values of nested settings by dotted path; tuples and lists are alike, as in JSON."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        below = leaves(value, f"{path}{name}.") if isinstance(value, dict) else None
        found |= {f"{path}{name}": list(value) if isinstance(value, tuple) else value} if below is None else below
    return found


# Settings that came after data had been published without them; their defaults change nothing.
LATER_DEFAULTS: list[tuple[str, object]] = [
    ("calibrate.form", "linear"),
    *((f"{stage}.top_k", None) for stage in ("generate", "sample")),
    *((f"{stage}.presence_penalty", 0.0) for stage in ("generate", "sample")),
    ("sample.stop", []),
    *((f"{stage}.guided", False) for stage in ("format", "generate")),
    *((f"models.{role}", None) for role in ("teacher", "criteria", "judge", "evaluated")),
    ("score.rubric", False),
    ("calibrate.coefficients.rubric", 0.0),
    ("score.engine", "transformers"),
    ("train.reference_logps", "forward"),
    ("sft.lora_dropout", 0.0),
    *(
        (f"engines.{role}.{name}", value)
        for role in ("teacher", "criteria", "judge")
        for name, value in leaves(TransformersEngineSettings().model_dump()).items()
    ),
    *((f"{section}.context.method", "none") for section in ("engines.policy", "score")),
    *((f"{section}.context.window", None) for section in ("engines.policy", "score")),
]


def test_the_default_of_a_later_setting_leaves_earlier_fingerprints_as_they_are() -> None:
    before, after = load_config("tiny"), load_config("tiny", ["calibrate.form=root"])
    assert identity(before.calibrate).keys() == {"coefficients", "binary"}
    assert identity(after.calibrate)["form"] == "root"


def test_a_context_of_ones_own_is_new_and_the_former_names_stand_in_fingerprints_as_before() -> None:
    """What fingerprints held of the engine and of the score stage before there was a section for the context."""
    engine: dict[str, Any] = {
        "kind": "transformers", "dtype": "float32", "context_window": None, "yarn_factor": None, "chat_template": None,
        "chat_template_kwargs": {},
    }  # fmt: skip
    plain = load_config("tiny")
    assert identity(plain.engines.policy) == engine
    assert identity(plain.score)["window"] is None and "context" not in identity(plain.score)
    context = {"method": "yarn", "window": 1024}
    for section in ("engines.policy", "score"):
        config = load_config("tiny", [f"{section}.context={context}"])
        assert identity(section_at(config, section)) == identity(section_at(plain, section)) | {"context": context}


@pytest.mark.parametrize(
    ("former", "now"),
    [
        ("engines.policy.context_window=100", "context: {window: N}"),
        ("engines.policy.yarn_factor=4.0", "context: {method: yarn, window: N}, N the tokens to reach"),
        ("score.window=100", "context: {window: N}"),
    ],
)
def test_a_former_name_says_what_it_is_called_now(former: str, now: str) -> None:
    path, _, value = former.partition("=")
    with pytest.raises(UserError) as error:
        load_config("tiny", [former])
    assert str(error.value) == f"--set: {path} is {value}: this setting has another name by now; give {now}"
    # A card of an earlier version shows it with null.
    assert load_config("tiny", [f"{path}=null"]) == load_config("tiny")


def test_a_method_needs_a_window() -> None:
    with pytest.raises(UserError) as error:
        load_config("tiny", ["engines.policy.context.method=yarn"])
    assert str(error.value) == (
        "--set: engines.policy.context is {'method': 'yarn'}: method yarn needs a window, the tokens to reach, such as "
        "32768"
    )


@pytest.mark.parametrize("preset", [name for name in preset_names() if load_config(name).pipeline == "grace-kto"])
def test_a_setting_either_decides_the_data_or_mere_execution(preset: str) -> None:
    found = dict(sections(load_config(preset)))
    assert {"engines", "engines.policy", "score.summary_relevance", "train", "world"} <= found.keys()
    for path, section in found.items():
        everything, decides, merely = (
            {name: value for name, value in leaves(values, f"{path}.").items() if (name, value) not in LATER_DEFAULTS}
            for values in (section.model_dump(), identity(section), execution(section))
        )
        # Marked PRIVATE: no manifest, card or fingerprint knows of trackers.
        private = {f"{path}.report_to"} & everything.keys()
        assert decides | merely == {name: value for name, value in everything.items() if name not in private}
        assert merely.keys() == everything.keys() & (EXECUTION_CHANGES.keys() | OF_THE_RUN)
        assert not decides.keys() & EXECUTION_CHANGES.keys()


def stages_reading(path: str) -> list[str]:
    """Stages that read the section or single setting in which a setting stands."""
    return [
        stage.name
        for stage in GRACE_KTO.stages
        if any(path == section or path.startswith(f"{section}.") for section in stage.sections)
    ]


@pytest.mark.parametrize("path", EXECUTION_CHANGES)
def test_execution_changes_no_stages_identity_and_is_recorded(path: str) -> None:
    before, after = load_config("paper-72b"), load_config("paper-72b", [f"{path}={EXECUTION_CHANGES[path]}"])
    assert section_at(before, path) != section_at(after, path)
    reading = stages_reading(path)
    assert reading
    for stage in GRACE_KTO.stages:
        assert configuration_of(stage, before) == configuration_of(stage, after)
        recorded = [executions(config, stage.sections) for config in (before, after)]
        assert (recorded[0] != recorded[1]) == (stage.name in reading)
    section, _, name = path.rpartition(".")
    recorded_value = executions(after, GRACE_KTO.stage(reading[0]).sections)[section][name]
    assert recorded_value == section_at(after, path)


@pytest.mark.parametrize(
    ("override", "stages"),
    [
        ("engines.policy.dtype=float16", ["generate", "sample", "answers"]),
        ("engines.policy.kind=transformers", ["generate", "sample", "answers"]),
        ("engines.policy.context.window=100", ["generate", "sample", "answers"]),
        (
            "engines.policy.chat_template_kwargs.enable_thinking=false",
            ["sft", "generate", "sample", "policy", "answers"],
        ),
        ("sample.thinking_tags=null", ["generate", "sample", "answers"]),
        ("threads=3", ["format", "sft", "generate", "sample", "criteria", "rate", "score", "policy", *EVALUATED]),
        ("random_seed=3", ["format", "generate", "sample", "criteria", "rate", "sft", "policy", *EVALUATED]),
        ("score.rubric=true", ["score", "answers"]),
        ("score.dtype=float32", ["score", "answers"]),
        ("score.engine=vllm", ["score", "answers"]),
        ("calibrate.coefficients.length=2.0", ["calibrate"]),
        ("train.batch_size=32", ["policy"]),
        ("loop.rounds=2", ["policy"]),
        ("sft.batch_size=16", ["sft"]),
        ("seed.language=zh", ["seed"]),
        ("workers=4", []),
        ("executor={kind: ray, workers: 4, address: auto, cpus: 2, gpus: 0.5}", []),
        ("store=elsewhere", []),
        ("name=other", []),
        ("publish.private=true", []),
    ],
)
def test_what_decides_the_data_changes_the_stages_that_read_it(override: str, stages: list[str]) -> None:
    base = ["engines.policy.kind=vllm", "world.seed=0"]  # a world of its own, so that the root's seed leaves it alone
    before, after = load_config("qwen2.5-0.5b", base), load_config("qwen2.5-0.5b", [*base, override])
    changed = [s.name for s in GRACE_KTO.stages if configuration_of(s, before) != configuration_of(s, after)]
    assert sorted(changed) == sorted(stages)


def test_a_single_setting_is_its_own_identity() -> None:
    assert identity(7) == 7 and identity(None) is None and execution(7) == {}
    assert identity(TrainSettings(lambdas=(1.0, 2.0)))["lambdas"] == [1.0, 2.0]


@pytest.mark.parametrize("section", ["train", "sft", "world"])
def test_a_sections_seed_follows_the_root_unless_it_is_set(section: str) -> None:
    def seeds(*overrides: str) -> dict[str, int]:
        config: GraceKTOSettings = load_config("tiny", overrides)
        return {"train": config.train.seed, "sft": config.sft.seed, "world": config.world.seed}

    assert seeds() == {"train": 0, "sft": 0, "world": 0}
    assert seeds("random_seed=5") == {"train": 5, "sft": 5, "world": 5}
    assert seeds("random_seed=5", f"{section}.seed=2") == {"train": 5, "sft": 5, "world": 5} | {section: 2}
    assert seeds("random_seed=5", f"{section}.seed=0")[section] == 0
    assert seeds(f"{section}.seed=2") == {"train": 0, "sft": 0, "world": 0} | {section: 2}


def test_a_section_without_a_seed_gets_none() -> None:
    config: GraceKTOSettings = load_config("tiny", ["random_seed=5"])
    named = {path for path, section in sections(config) if "seed" in type(section).model_fields}
    assert named == {"train", "sft", "world"}
    assert config.seed.source == "world:seeds"


@pytest.mark.parametrize("store", ["", " ", "s3://bucket/store", "hf://x"])
def test_a_store_is_a_folder_of_this_machine(store: str) -> None:
    with pytest.raises(UserError, match=r"store: .*expected a folder of this machine, such as .grace/store"):
        load_config("tiny", store=store)


def test_numbers_have_an_end() -> None:
    for setting in (f"threads={10**23}", f"generate.queries={10**23}", f"sample.responses={2**31}"):
        with pytest.raises(UserError, match="less than"):
            load_config("tiny", [setting])
