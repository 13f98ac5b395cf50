"""The configuration of RationAlign; the defaults are the paper's where it states them.

Each section that a stage reads is part of that stage's fingerprint, so changing it makes that stage stale; settings
marked `EXECUTION` make nothing stale. A section's docstring is its comment in the file that `grace init` writes.
"""

from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from builders.settings.asking import AskingSettings, Tags, Text
from builders.settings.base import EXECUTION, PATH, SAID, DType, Positive, Section, Settings, Share
from builders.settings.engines import EngineSettings, TransformersEngineSettings
from builders.settings.mpo import MpoSettings
from builders.settings.sft import TuningSettings

PROMPTS = Path(__file__).parent / "prompts"
LEAST_FOLDS = 2
MOST_FOLDS = 10
FOLDS = tuple(f"fold-{number}" for number in range(1, MOST_FOLDS + 1))
"""The stages that train a model without one fold each; the first `pairs.folds` of them are used."""

# strict=False: YAML has lists, which a strict model would not accept as tuples.
Texts = Annotated[tuple[Text, ...], Field(strict=False)]
Paths = Annotated[tuple[Annotated[str, PATH], ...], Field(strict=False)]


class TaskSettings(Section):
    """A task of one's own, beside the eight that come with this package, or another wording of one of those."""

    metric: Annotated[Literal["maxmatch", "sari", "bleu"], SAID] = Field(
        description="the metric that its outputs are compared by"
    )
    edit: Annotated[Text, SAID] = Field(description="what the writing assistant is asked to do")
    change: Annotated[Text, SAID] = Field(description="what the edits do to a text, for the teacher that explains them")
    quality: Annotated[Text, SAID] = Field(description="what a good output is like, for the reward model")


class PairColumns(Section):
    """Columns of a table of texts; of a TSV file without a header their numbers, from 1."""

    source: Text = "source"
    target: Text | None = Field("target", description="the edited text; null: there is none, the texts are unlabelled")
    references: Texts = Field((), description="further edited texts: columns of text, or of lists of texts")
    task: Text = Field("task", description="column of the task, where `task` names none")

    @model_validator(mode="after")
    def _edited_text_is_another(self) -> Self:
        if self.source in (self.target, *self.references):
            raise ValueError(f"column {self.source} is the text before; name another for the edited text")
        return self


class PairSource(Section):
    """A source of texts, and what people made of them."""

    source: Annotated[str, PATH] = Field(
        description="JSONL, CSV, Parquet, TSV or M2 file, a text in each line, a folder, "
        "`dataset[@revision]`, or world:pairs"
    )
    task: Text | None = Field(None, description="the task of all its rows; null: a column says it")
    format: Literal["table", "tsv", "m2", "lines"] | None = Field(
        None,
        description="tsv: columns parted by tabs, named by number or by a header; lines: a text in each line, beside "
        "the files of `references`; null: by the name's ending, .m2, .tsv, .txt, else a table",
    )
    columns: PairColumns = PairColumns()
    references: Annotated[Paths, PATH] = Field(
        (), description="of lines: the files of the edited texts, the target first"
    )
    where: dict[str, str] = Field({}, description="rows with these values are taken, such as {labels: fluency}")
    at_least: dict[str, float] = Field({}, description="rows with these numbers or more are taken, such as {label: 4}")
    subset: str | None = Field(None, description="subset of a dataset on the Hub or in a folder; null: its default")
    split: str | None = Field(None, description="split of such a dataset; null: train, or the only one")

    @property
    def read_as(self) -> str:
        """The format, by the name's ending where none is set."""
        by_ending = {".m2": "m2", ".tsv": "tsv", ".txt": "lines"}
        return self.format or by_ending.get(PurePath(self.source.removesuffix(".gz")).suffix, "table")

    @model_validator(mode="after")
    def _is_read(self) -> Self:
        for name in _NOT_READ[self.read_as]:
            if getattr(self, name) != type(self).model_fields[name].get_default():
                way = "set format to lines" if (self.read_as, name) == ("table", "references") else "leave it out"
                raise ValueError(f"{name} says nothing of a source that is read as {self.read_as}; {way}")
        return self


_NOT_READ = {
    "table": ("references",),
    "tsv": ("references", "subset", "split"),
    "m2": ("references", "columns", "where", "at_least", "subset", "split"),
    "lines": ("columns", "where", "at_least", "subset", "split"),
}
"""The settings that mean nothing to a format."""

Sources = Annotated[tuple[PairSource, ...], Field(strict=False)]


class ModelSettings(Section):
    """Models as `id[@revision]` on the Hub or in the store, a folder, or the name of a stage that makes one."""

    teacher: Annotated[str, PATH] = Field(description="an instruct model that explains edits")
    base: Annotated[str, PATH] = Field(description="the model that the fold models and `train --stage sft` start from")
    reward: Annotated[str, PATH] = Field(description="the model that the reward model starts from")
    policy: Annotated[str, PATH] = Field("sft", description="the assistant that samples, and mpo starts from")
    classifier: Annotated[str | None, PATH] = Field(
        None, description="a sequence classifier that tells formal texts from others, for evaluation; null: none"
    )
    judge: Annotated[str | None, PATH] = Field(
        None, description="an instruct model that rates outputs and reasons, for evaluation; null: none"
    )


class Engines(Section):
    """How the models that write text are run, by role."""

    teacher: EngineSettings = Field(TransformersEngineSettings(), description="reasons for edits")
    policy: EngineSettings = Field(
        TransformersEngineSettings(), description="writing assistants and fold models, in training and afterwards"
    )
    judge: EngineSettings = Field(TransformersEngineSettings(), description="ratings in an evaluation")


class PairsSettings(Section):
    """Stage `pairs`: labelled data, and what is left of its sources for the unlabelled side (B.1)."""

    sources: Sources = Field((), description="labelled texts by task")
    per_task: Positive = Field(10_000, description="pairs of each task; the others' sources go to the unlabelled side")
    folds: int = Field(5, ge=LEAST_FOLDS, le=MOST_FOLDS, description="K; equal sources are in one fold")
    license: str = Field("apache-2.0", description="licence of the sources, for the cards")
    shard_rows: Positive | None = Field(None, description="rows per shard; null: 10 000, or more of many rows")


class UnlabelledSettings(Section):
    """Stage `unlabelled`: texts without their edited form, none of which is a labelled one."""

    sources: Sources = Field((), description="texts by task, beside those that `pairs` left")
    per_task: Positive = Field(40_000, description="texts of each task")
    shard_rows: Positive | None = Field(None, description="rows per shard; null: 10 000, or more of many rows")


class ExplainSettings(AskingSettings):
    """Stage `explain`: one reason for each edit, by the teacher (§3.1)."""

    shard_rows: Positive | None = Field(None, description="pairs per shard; null: 64, or more of many pairs")


class DrawSettings(Section):
    """How suggestions are drawn (B.3)."""

    temperature: float = Field(1.2, gt=0)
    top_p: Share = 0.9
    top_k: Positive | None = Field(50, description="draw from this many of the most probable tokens; null: from all")
    presence_penalty: float = Field(1.2, ge=-2, le=2, description="taken from the logits of tokens that are there")
    max_new_tokens: Positive = 2048
    thinking_tags: Tags | None = Field(
        ("<think>", "</think>"), description="a block between these before an answer is cut and counted; null: never"
    )


class ContestSettings(DrawSettings):
    """Stage `contest`: two suggestions for each pair by the model that has not seen it (§3.2.1)."""

    samples: int = Field(16, ge=2, le=1024, description="N, suggestions for each pair")
    contests: Positive = Field(
        1, description="contests for each pair, as far as its suggestions differ; more cost nothing to draw"
    )
    list_edits: bool = Field(
        False,
        description="the reward model also reads the edits, here and in `prefer`: a small one does not see them itself",
    )
    shard_rows: Positive | None = Field(None, description="pairs per shard; null: 32, or more of many pairs")


class SampleSettings(DrawSettings):
    """Stage `sample`: M responses to each unlabelled text (§3.2.2)."""

    responses: int = Field(16, ge=2, le=1024, description="M, responses to each text")
    shard_rows: Positive | None = Field(None, description="texts per shard; null: 32, or more of many texts")


class PreferSettings(Section):
    """Stage `prefer`: the best and the worst response to each text by reward, of the best texts (§3.2.2)."""

    share: Share = Field(0.2, description="share of the texts that is kept, by the reward of the best response")
    within: Literal["task", "all"] = Field(
        "task", description="the share is taken of each task, whose rewards have a scale of their own, or of all"
    )
    rationale: Literal["required", "optional"] = Field(
        "required", description="required: a response without reasons is dropped, unless sft.order is none"
    )
    max_length: Positive | None = Field(None, description="longest text it reads in tokens; null: its window")
    device: Annotated[str, EXECUTION] = Field("auto", description="auto, cpu or cuda")
    dtype: DType = Field("auto", description="weights in memory; auto: bfloat16 on a GPU, float32 on a CPU")
    batch_size: Annotated[Positive, EXECUTION] = Field(64, description="texts in one pass of the reward model")
    shard_rows: Positive | None = Field(None, description="texts per shard; null: 256, or more of many texts")


class SftSettings(TuningSettings):
    """Training `sft`: the writing assistant, on suggestions and their reasons (§3.2.2)."""

    order: Literal["suggestion-first", "rationale-first", "none"] = Field(
        "suggestion-first", description="what an answer begins with (§5.2); none: suggestions without reasons"
    )


class RewardSettings(TuningSettings):
    """Training `reward`: the reward model, on contests (§3.2.1)."""

    per_task: bool = Field(True, description="a model, or an adapter, for each task (B.4); false: one for all")


class TestSource(PairSource):
    """A test set: a source of labelled texts, with the name that the table shows."""

    name: Text | None = Field(None, description="name in the table; null: the task")


class EvaluateSettings(Section):
    """`grace evaluate`: table 1, edits, reasons, and the reward model."""

    sources: Annotated[tuple[TestSource, ...], Field(strict=False)] = Field((), description="test sets")
    per_task: Positive | None = Field(None, description="texts of each test set; null: all")
    max_new_tokens: Positive = 2048
    formal: Text = Field("formal", description="label that models.classifier gives formal texts")
    samples: int | None = Field(
        16,
        ge=2,
        description="suggestions drawn for each test text, as `sample` draws them, to compare rewards with metrics; "
        "null: none",
    )
    judged: Positive = Field(1000, description="texts whose outputs and reasons models.judge rates, if it is set")


# Of all trainings (B.4).
_PAPER: dict[str, Any] = {
    "method": "lora",
    "lora_rank": 16,
    "lora_alpha": 16,
    "lora_dropout": 0.05,
    "lora_targets": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "batch_size": 128,
    "epochs": 4.0,
}


class RationAlignSettings(Settings):
    """The whole configuration of RationAlign."""

    pipeline: Literal["rationalign"] = Field("rationalign", description="which pipeline is built")
    models: ModelSettings
    engines: Engines = Engines()
    tasks: dict[str, TaskSettings] = Field({}, description="tasks of your own: {name: {metric, edit, change, quality}}")
    pairs: PairsSettings = PairsSettings()
    unlabelled: UnlabelledSettings = UnlabelledSettings()
    explain: ExplainSettings = ExplainSettings()
    fold: TuningSettings = TuningSettings(learning_rate=5e-4, **_PAPER)
    contest: ContestSettings = ContestSettings()
    reward: RewardSettings = RewardSettings(learning_rate=3e-4, **_PAPER)
    sft: SftSettings = SftSettings(learning_rate=5e-4, **_PAPER)
    sample: SampleSettings = SampleSettings()
    prefer: PreferSettings = PreferSettings()
    mpo: MpoSettings = MpoSettings(learning_rate=1e-5, **_PAPER)
    evaluate: EvaluateSettings = EvaluateSettings()
