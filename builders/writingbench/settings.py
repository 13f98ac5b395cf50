"""The configuration of WritingBench; the defaults are the paper's where it states them.

Each section that a stage reads is part of that stage's fingerprint, so changing it makes that stage stale; settings
marked `EXECUTION` make nothing stale. A section's docstring is its comment in the file that `grace init` writes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from builders.rubrics import settings as rubrics
from builders.rubrics.settings import RateSettings
from builders.settings.asking import AskingSettings, Tags, Text
from builders.settings.base import LATER, PATH, Positive, Section, Settings, Share
from builders.settings.engines import EngineSettings, TransformersEngineSettings
from builders.settings.sft import TuningSettings

# strict=False: YAML has lists, which a strict model would not accept as tuples.


def _each_once(values: tuple[str, ...]) -> tuple[str, ...]:
    """Check that no value stands in a list twice.

    Raises:
        ValueError: naming the first that does.
    """
    if twice := [value for value in values if values.count(value) > 1]:
        raise ValueError(f"{twice[0]} stands there twice; leave one out")
    return values


Names = Annotated[tuple[Annotated[str, PATH], ...], Field(strict=False, min_length=1), AfterValidator(_each_once)]
Languages = Annotated[tuple[Text, ...], Field(strict=False, min_length=1), AfterValidator(_each_once)]
REQUIREMENTS = ("length", "format", "style", "personalisation", "content", "brevity")
"""The pool of guidance (C.2), by the names that the column `requirements` has."""


PROMPTS = Path(__file__).parent / "prompts"


class ModelSettings(Section):
    """Models as `id[@revision]` on the Hub or in the store, a folder, or the name of a stage that makes one."""

    teacher: Annotated[str, PATH] = Field(description="an instruct model that writes requests, material and criteria")
    policies: Names = Field(description="models that respond to the queries, one or several")
    judge: Annotated[str, PATH] = Field(description="the model that rates responses: a large one, or a critic")
    base: Annotated[str, PATH] = Field(description="the model `train --stage writer` starts from")
    critic: Annotated[str, PATH] = Field(description="the model `train --stage critic` starts from")


class Engines(Section):
    """How the models that write text are run, by role."""

    teacher: EngineSettings = Field(TransformersEngineSettings(), description="requests, material, criteria")
    policy: EngineSettings = Field(TransformersEngineSettings(), description="responses, of every policy")
    judge: EngineSettings = Field(TransformersEngineSettings(), description="ratings")
    writer: EngineSettings = Field(TransformersEngineSettings(), description="the writer, in training and afterwards")
    critic: EngineSettings = Field(TransformersEngineSettings(), description="the critic, in training and afterwards")


class TaxonomySettings(Section):
    """Stage `taxonomy`: the kinds of writing (A.2)."""

    source: Annotated[str | None, PATH] = Field(
        None,
        description="JSONL, CSV or Parquet file, a folder, `dataset[@revision]`, or world:taxonomy, with the columns "
        "domain, subdomain, description and perhaps language; null: the 6 domains and 100 subdomains that come with "
        "this package",
    )
    subset: str | None = Field(None, description="subset of a dataset on the Hub or in a folder; null: its default")
    split: str | None = Field(None, description="split of such a dataset; null: train, or the only one")
    languages: Languages = Field(
        ("en", "zh"), description="languages to write in; a row without a language counts for each of them"
    )
    license: str = Field("apache-2.0", description="licence of the source, for the cards")


class RequestSettings(AskingSettings):
    """Stage `request`: initial writing requests (§3.1.1, C.1)."""

    requests: Positive = Field(10, description="n, requests for each subdomain and language")
    per_prompt: Positive = Field(10, description="requests asked for in one prompt")
    max_request_chars: Positive = Field(2000, description="longer requests are dropped")
    shard_rows: Positive | None = Field(None, description="subdomains per shard; null: 8, or more of a large taxonomy")


class RefineSettings(AskingSettings):
    """Stage `refine`: requests revised by guidance, and the material they need (§3.1.1, C.2–C.3, §3.4)."""

    most_requirements: Positive = Field(
        3, le=5, description="requirements added to one request: from 1 to this many, drawn uniformly"
    )
    material: Literal["write", "list", "none"] = Field(
        "write",
        description="write: the teacher lists the material that a request needs and writes it into the query; list: it "
        "lists it, for people who bring their own; none: neither",
    )
    max_material_tokens: Positive = Field(4096, description="tokens of the material that is written for one request")
    max_query_chars: Positive = Field(32_000, description="longer queries, material included, are dropped")
    near_duplicate_threshold: Share | None = Field(
        0.8,
        description="share of common word 3-grams from which a request counts as a repetition; null: equal ones only",
    )
    benchmarks: Annotated[tuple[Annotated[str, PATH], ...], Field(strict=False)] = Field(
        (), description="files of benchmarks, with a column query, whose near-duplicates are dropped"
    )
    shard_rows: Positive | None = Field(None, description="requests per shard; null: 32, or more of many requests")


class CriteriaSettings(rubrics.CriteriaSettings):
    """Stage `criteria`: five criteria for each query (§3.2), or those that are the same for all."""

    mode: Literal["query", "domain", "global"] = Field(
        "query", description="query: written for each one; domain, global: fixed ones that come with this package"
    )


class RespondSettings(Section):
    """Stage `respond`: m responses to each query by each policy."""

    responses: Positive = Field(1, description="m, responses of one policy to one query")
    temperature: float = Field(0.7, ge=0)
    top_p: Share = 0.8
    top_k: Positive | None = Field(20, description="draw from this many of the most probable tokens; null: from all")
    max_new_tokens: Positive = 16_000
    thinking_tags: Tags | None = Field(
        ("<think>", "</think>"), description="a block between these before an answer is cut and counted; null: never"
    )
    shard_queries: Positive | None = Field(None, description="queries per shard; null: 8, or more of many queries")


class BenchmarkSettings(Section):
    """Stage `benchmark`, which takes the place of `criteria` where it has data: queries to compare models on."""

    data: Annotated[str | None, PATH] = Field(
        None, description="the benchmark's queries: a JSONL file, or `dataset[@revision]`; null: none, data is made"
    )
    requirements: Annotated[str | None, PATH] = Field(
        None, description="folder with the benchmark's subsets by requirement; null: none"
    )


class SelectSettings(Section):
    """Stage `select`: the responses that a writer is trained on, by mean score (§3.4)."""

    best: Positive = Field(1, description="responses kept of one query at the most")
    floor: float | None = Field(None, ge=1, le=10, description="least mean score; null: any")
    share: Share = Field(0.5, description="share of the responses left after `best` and `floor` that is kept (§4.4)")
    within: Literal["all", "subdomain"] = Field("all", description="the share is taken of all, or of each subdomain")
    order: Annotated[Literal["score", "random"], LATER] = Field(
        "score", description="score: the best are kept; random: as many, drawn whatever their score, as a control"
    )
    shard_rows: Positive | None = Field(None, description="rows per shard; null: 10 000, or more of many rows")


class CritiqueSettings(Section):
    """Stage `critique`: ratings as training data of a critic (§3.3)."""

    test_share: float = Field(0.1, ge=0, lt=1, description="share of the queries that are kept for the test")
    balance: float | None = Field(
        1.0,
        gt=0,
        description="most training rows of one score, as a multiple of the median count over the scores; null: all",
    )
    shard_rows: Positive | None = Field(None, description="rows per shard; null: 10 000, or more of many rows")


class WritingBenchSettings(Settings):
    """The whole configuration of WritingBench."""

    pipeline: Literal["writingbench"] = Field("writingbench", description="which pipeline is built")
    models: ModelSettings
    engines: Engines = Engines()
    taxonomy: TaxonomySettings = TaxonomySettings()
    request: RequestSettings = RequestSettings()
    refine: RefineSettings = RefineSettings()
    criteria: CriteriaSettings = CriteriaSettings()
    benchmark: BenchmarkSettings = BenchmarkSettings()
    respond: RespondSettings = RespondSettings()
    rate: RateSettings = RateSettings()
    select: SelectSettings = SelectSettings()
    critique: CritiqueSettings = CritiqueSettings()
    writer: TuningSettings = TuningSettings(epochs=5.0, learning_rate=7e-6)
    critic: TuningSettings = TuningSettings(epochs=3.0, learning_rate=7e-6)

    def models_of(self, role: str) -> Sequence[str]:
        """Names of the models that an engine's role runs."""
        return self.models.policies if role == "policy" else super().models_of(role)
