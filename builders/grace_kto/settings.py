"""The configuration of GRACE-KTO; the defaults are the paper's (§4.1) where it states them.

Each section that a stage reads is part of that stage's fingerprint, so changing it makes that stage stale; settings
marked `EXECUTION` make nothing stale. A section's docstring is its comment in the file that `grace init` writes.
"""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from builders.judging.settings import JudgeSettings
from builders.rubrics.settings import CriteriaSettings, RateSettings
from builders.settings.asking import AskingSettings, Tags, Text
from builders.settings.base import (
    EXECUTION,
    FORMER,
    LATER,
    MAX_ROUNDS,
    PATH,
    DType,
    Positive,
    Section,
    Settings,
    Share,
    moved,
)
from builders.settings.context import ContextSettings
from builders.settings.engines import EngineSettings, TransformersEngineSettings
from builders.settings.kto import TrainSettings
from builders.settings.sft import SFTSettings
from scorers.errors import did_you_mean
from scorers.forms import Form
from scorers.relevance import DOCUMENT_WEIGHTS, SUMMARY_WEIGHTS

_MORE = "or as many as keep a large dataset to 2 000 shards"


class ModelSettings(Section):
    """Models as `id[@revision]` on the Hub or in the store, a folder, or the name of a stage that makes one."""

    policy: Annotated[str, PATH] = Field(
        "sft", description="the first round's policy; `sft` is the result of `train --sft`"
    )
    base: Annotated[str, PATH] = Field(description="the model `train --sft` starts from")
    general: Annotated[str, PATH] = Field(description="general language model M_G (eq. 3)")
    domain: Annotated[str, PATH] = Field(description="domain language model M_D (eq. 3)")
    relevance: Annotated[str, PATH] = Field(description="BGE-M3 folder or repository with its two heads (eq. 4)")
    teacher: Annotated[str | None, PATH, LATER] = Field(
        None,
        description="an instruct model that writes summary and outline of plain reference documents, for `train --sft` "
        "(§3.1); null: none",
    )
    criteria: Annotated[str | None, PATH, LATER] = Field(
        None, description="an instruct model that writes each query's criteria, where score.rubric is true; null: none"
    )
    judge: Annotated[str | None, PATH, LATER] = Field(
        None,
        description="the model that rates documents by them, or grades answers: a large one, or a critic; null: none",
    )
    evaluated: Annotated[str | None, PATH, LATER] = Field(
        None, description="the policy whose answers stage `answers` holds; `grace evaluate` sets it for each policy"
    )


class Engines(Section):
    """How the models that write text are run, by role."""

    policy: EngineSettings = Field(TransformersEngineSettings(), description="queries and responses")
    teacher: Annotated[EngineSettings, LATER] = Field(
        TransformersEngineSettings(), description="summaries and outlines (stage format)"
    )
    criteria: Annotated[EngineSettings, LATER] = Field(
        TransformersEngineSettings(), description="criteria (stage criteria)"
    )
    judge: Annotated[EngineSettings, LATER] = Field(
        TransformersEngineSettings(), description="ratings (stage rate), grades (stage evaluations)"
    )


class SeedColumns(Section):
    """Names of the source's columns."""

    query: str = Field("query", description="the writing request")
    reference: str | None = Field(None, description="a reference document, if there is one")
    language: str | None = Field(None, description="a language code; without it seed.language counts")


class SeedSettings(Section):
    """Stage `seed`."""

    source: Annotated[str, PATH] = Field(
        description="JSONL, CSV or Parquet file, a folder, `dataset[@revision]`, or world:seeds"
    )
    subset: str | None = Field(None, description="subset of a dataset on the Hub or in a folder; null: its default")
    split: str | None = Field(None, description="split of such a dataset; null: train, or the only one")
    columns: SeedColumns = SeedColumns()
    language: str | None = Field(None, description="language code of rows without one; null: zh or en, by its script")
    license: str = Field("other", description="licence of the source, for the cards")
    max_query_chars: Positive = Field(8000, description="longer requests are dropped")
    shard_rows: Positive | None = Field(None, description=f"rows per shard; null: about 10 000, {_MORE}")


PROMPTS = Path(__file__).parent / "prompts"


def _known_prompt(name: str) -> str:
    """Check that a prompt is a file, or the beginning of files that differ in their language.

    Raises:
        ValueError: naming the closest one.
    """
    files = {path.name.removesuffix(".jinja") for path in PROMPTS.glob("*.jinja")}
    known = sorted(files | {file.partition(".")[0] for file in files})
    if name not in known:
        raise ValueError(f"there is no such prompt{did_you_mean(name, known)}; prompts: {', '.join(known)}")
    return name


Prompt = Annotated[str, AfterValidator(_known_prompt)]


TOP_K = "draw from this many of the most probable tokens; null: from all"
GUIDED = (
    "hold replies to their form while they are drawn, so that each one can be read unless it is cut; engine vllm, or "
    "openai where the server is vLLM's (others ignore it or refuse); leaves a thinking model no room to think, and a "
    "chat template that opens a thinking block is refused"
)
PENALTY = "taken from the logits of tokens that are there already"


class FormatSettings(AskingSettings):
    """Stage `format` (§3.1), which is built where models.teacher is set."""

    max_document_chars: Positive | None = Field(
        None, description="longer documents are dropped; null: those that a local teacher's window has no room for"
    )
    guided: Annotated[bool, LATER] = Field(False, description=GUIDED)


class GenerateSettings(Section):
    """Stage `generate` (§3.2)."""

    queries: Positive = Field(250, description="K, new queries per round")
    examples: Positive = Field(5, description="seed queries shown in one prompt, drawn uniformly")
    per_prompt: Positive = Field(5, description="queries asked for in one prompt")
    prompt: Annotated[Prompt, Field(pattern=r"^generate(\.|$)")] = Field(
        "generate",
        description="prompt file in builders/grace_kto/prompts; generate: that of the seeds' language, else en",
    )
    temperature: float = Field(1.0, ge=0)
    top_p: Share = 1.0
    top_k: Annotated[Positive | None, LATER] = Field(None, description=TOP_K)
    presence_penalty: Annotated[float, LATER] = Field(0.0, ge=-2, le=2, description=PENALTY)
    max_new_tokens: Positive = 2048
    guided: Annotated[bool, LATER] = Field(False, description=GUIDED)
    max_query_chars: Positive = Field(8000, description="characters (not tokens) of a query; longer ones are dropped")
    max_attempts: Positive = Field(10, description="prompts tried, as a multiple of the fewest that could do")
    near_duplicate_threshold: Share | None = Field(
        0.8, description="share of common word 3-grams from which a query counts as a repetition; null: equal ones only"
    )
    shard_queries: Positive | None = Field(None, description=f"queries per shard; null: 32, {_MORE}")


class SampleSettings(Section):
    """Stage `sample` (§3.3)."""

    responses: Positive = Field(8, description="m, responses to one query")
    system_prompt: Annotated[Prompt, Field(pattern=r"^system(\.|$)")] | None = Field(
        "system",
        description="prompt file in builders/grace_kto/prompts; system: that of each query's language; null: none",
    )
    temperature: float = Field(1.0, ge=0)
    top_p: Share = 0.9
    top_k: Annotated[Positive | None, LATER] = Field(None, description=TOP_K)
    presence_penalty: Annotated[float, LATER] = Field(0.0, ge=-2, le=2, description=PENALTY)
    stop: Annotated[tuple[Text, ...], LATER, Field(strict=False)] = Field(
        (), description="texts that end a response, which keeps the one that ended it, such as [</answer>]"
    )
    max_new_tokens: Positive = 8192
    thinking_tags: Tags | None = Field(
        ("<think>", "</think>"), description="a block between these before an answer is cut and counted; null: never"
    )
    shard_queries: Positive | None = Field(None, description=f"queries per shard; null: 8, {_MORE}")


class RelevanceWeights(Section):
    """Weights of dense, lexical and multi-vector similarity (eq. 4)."""

    dense: float
    lexical: float
    multivector: float


def _weights(values: tuple[float, float, float]) -> RelevanceWeights:
    """Return weights given in the order dense, lexical, multi-vector."""
    dense, lexical, multivector = values
    return RelevanceWeights(dense=dense, lexical=lexical, multivector=multivector)


class ScoreSettings(Section):
    """Stage `score` (eq. 1–4)."""

    ngram: Positive = Field(4, description="n of the distinct n-grams (eq. 2)")
    general_weight: float = Field(1.0, description="w_G (eq. 3)")
    domain_weight: float = Field(1.0, description="w_D (eq. 3)")
    summary_relevance: RelevanceWeights = _weights(SUMMARY_WEIGHTS)
    document_relevance: RelevanceWeights = _weights(DOCUMENT_WEIGHTS)
    max_length: Positive = Field(8192, description="tokens BGE-M3 reads of a text; the rest is cut and counted")
    rubric: Annotated[bool, LATER] = Field(
        False,
        description="also rate each matched document by five criteria of its query, as WritingBench does (stages "
        "criteria and rate; models.criteria and models.judge)",
    )
    context: Annotated[ContextSettings, LATER] = Field(
        ContextSettings(), description="what the two language models read at once; longer documents by half windows"
    )
    window: Annotated[None, FORMER, moved("context: {window: N}")] = None
    engine: Annotated[Literal["transformers", "vllm"], LATER] = Field(
        "transformers", description="what runs the two language models; their numbers are equal to float rounding"
    )
    device: Annotated[str, EXECUTION] = Field("auto", description="auto, cpu or cuda")
    dtype: DType = "auto"
    memory_share: Annotated[float, EXECUTION] = Field(
        0.3, gt=0, le=0.5, description="vllm: of the GPU's memory, for each of the two language models"
    )
    tokens_per_batch: Annotated[Positive, EXECUTION] = Field(
        16_384, description="padded tokens the language models read together"
    )
    texts_per_batch: Annotated[Positive, EXECUTION] = Field(32, description="texts BGE-M3 reads together")


class RankCoefficients(Section):
    """Coefficients of the rank sum rho (eq. 5)."""

    length: float = 1.0
    diversity: float = 1.0
    professionalism: float = 1.0
    relevance_document: float = 0.8
    relevance_summary: float = 0.2
    ppl_domain: float = 1.0
    rubric: Annotated[float, LATER] = Field(0.0, description="of the rank by score.rubric's ratings")


class CalibrateSettings(Section):
    """Stage `calibrate` (eq. 5–10)."""

    coefficients: RankCoefficients = RankCoefficients()
    binary: bool = Field(False, description="replace W by ±1 of the same label: plain KTO on the same data")
    form: Annotated[Form, LATER] = Field(
        "linear",
        description="W from z: linear, eq. 8–9; root: as √|z|; clipped: linear, 2 at most; local: z itself",
    )


class LoopSettings(Section):
    """The semi-online loop (§3.5)."""

    rounds: Positive = Field(
        4, le=MAX_ROUNDS, description="R, dataset renewals; 1 with K = total is the offline variant"
    )
    held_out: Annotated[int, EXECUTION] = Field(
        64, ge=0, description="held-out queries that every round's policy answers, to show what it learns; 0: none"
    )
    min_matched: Annotated[float, EXECUTION] = Field(
        0.5,
        ge=0,
        le=1,
        description="the loop stops after a round of whose responses fewer have the tagged form; 0: never",
    )
    max_cut: Annotated[float, EXECUTION] = Field(
        0.3, ge=0, le=1, description="it stops where more are cut at the length limit; 1: never"
    )


class EvaluateSettings(Section):
    """The queries of `grace evaluate` and how they are answered."""

    source: Annotated[str, PATH] = Field(
        description="held-out queries: a file, a folder, `dataset[@revision]`, or world:heldout"
    )
    subset: str | None = Field(None, description="subset of a dataset on the Hub or in a folder; null: its default")
    split: str = "test"
    column: str = "query"
    queries: Positive = Field(128, description="queries taken")
    responses: Positive = Field(1, description="responses to each query")
    skip: int = Field(0, ge=0, description="queries of the source left out before those taken")
    temperature: float = Field(1.0, ge=0, description="0 is greedy")
    top_p: Share = 1.0
    label: Annotated[str | None, EXECUTION] = Field(
        None, description="the policy's part of its datasets' names; `grace evaluate` sets it; null: none"
    )
    other: Annotated[str | None, PATH, EXECUTION] = Field(
        None, description="answers that stage comparisons sets others against; `grace evaluate --pairwise` sets it"
    )
    judge: Annotated[bool, EXECUTION] = Field(
        False, description="let models.judge grade the answers too; `grace evaluate --judge` sets it"
    )
    pairwise: Annotated[bool, EXECUTION] = Field(
        False, description="let it choose between every two policies' answers instead; `--pairwise` sets it"
    )


class GraceKTOSettings(Settings):
    """The whole configuration of GRACE-KTO."""

    VARIANTS: ClassVar = {
        "paper": {
            "calibrate.coefficients.length": 1.0,
            "calibrate.coefficients.diversity": 1.0,
            "train.mu": 0.1,
            "train.lambdas": "balanced",
        },
        # Where every metric counts alike, repeated sentences pay, since they are long and fluent: diversity weighs more
        # against them, and length so that documents do not shrink in turn. Negative rows take probability away and give
        # it to any text, which costs grammar: they count half, and the positives' cross-entropy more.
        "steady": {
            "calibrate.coefficients.length": 1.5,
            "calibrate.coefficients.diversity": 3.0,
            "train.mu": 0.7,
            "train.lambdas": [1.0, 0.5],
        },
    }

    pipeline: Literal["grace-kto"] = Field("grace-kto", description="which pipeline is built")
    variant: Annotated[Literal["paper", "steady"], EXECUTION] = Field(
        "paper",
        description="the paper's length and diversity coefficients, mu and lambdas, or steady: those that kept the "
        "language on generated worlds; each of them can still be set",
    )
    models: ModelSettings
    engines: Engines = Engines()
    seed: SeedSettings
    format: Annotated[FormatSettings, LATER] = FormatSettings()
    generate: GenerateSettings = GenerateSettings()
    sample: SampleSettings = SampleSettings()
    criteria: Annotated[CriteriaSettings, LATER] = CriteriaSettings()
    rate: Annotated[RateSettings, LATER] = RateSettings()
    score: ScoreSettings = ScoreSettings()
    calibrate: CalibrateSettings = CalibrateSettings()
    sft: SFTSettings = SFTSettings()
    train: TrainSettings = TrainSettings()
    loop: LoopSettings = LoopSettings()
    evaluate: EvaluateSettings
    judge: Annotated[JudgeSettings, LATER] = JudgeSettings()

    def adapter_rank(self, role: str) -> int | None:
        """Rank of the adapters that training makes of the policy; None of other roles, and of full fine-tuning."""
        return self.train.lora_rank if role == "policy" and self.train.method != "full" else None
