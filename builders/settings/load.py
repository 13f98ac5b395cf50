"""Configuration: one strict pydantic model, presets as YAML beside it, `--set section.key=value` on top.

The defaults are the method's (DESIGN §2, the paper's §4.1). Each section that a stage reads is part of that stage's
fingerprint, so changing it makes the stage stale and nothing else.
"""

import difflib
import json
import re
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from builders.settings.kto import TrainSettings
from builders.settings.sft import SFTSettings
from scorers.errors import UserError

PRESETS = ("tiny", "qwen2.5-0.5b", "paper-72b")
DEFAULT_FILE = "grace.yaml"

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, le=1)]


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with 1e-3 a number as in YAML 1.2; YAML 1.1 asks for 1.0e-3."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+"), list("-+0123456789")
)


def read_yaml(text: str) -> Any:
    """Parse YAML; raises yaml.YAMLError."""
    return yaml.load(text, Loader=_Loader)  # a subclass of SafeLoader


class Section(BaseModel):
    """Base of every section: no unknown keys, no coercion, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class WorldSettings(Section):
    """The generated world of the tiny preset: its documents and its models, made on this machine."""

    seed: int = Field(0, ge=0, description="seed of the world's texts and of its models' training")


class ModelSettings(Section):
    """Models as `id[@revision]` on the Hub, a folder, or `world:NAME` for one of the generated world's."""

    policy: str = Field("sft", description="the first round's policy; `sft` is the result of `train --sft`")
    base: str = Field(description="the model `train --sft` starts from")
    general: str = Field(description="general language model M_G (eq. 3)")
    domain: str = Field(description="domain language model M_D (eq. 3)")
    relevance: str = Field(description="BGE-M3 folder or repository with its two heads (eq. 4)")


class EngineSettings(Section):
    """How responses are sampled."""

    kind: Literal["transformers", "vllm"] = Field("transformers", description="sampling engine")
    device: str = Field("auto", description="auto, cpu or cuda")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="weights in memory")
    batch_size: Positive = Field(64, description="rows decoded together by the transformers engine")
    yarn_factor: float | None = Field(None, ge=1, description="YaRN context extension (vllm), null for none")
    context_window: int | None = Field(None, ge=1, description="tokens of prompt and response; null: the model's own")
    tensor_parallel: Positive = Field(1, description="GPUs one vllm engine spans")


class SeedColumns(Section):
    """Which columns of the source hold what."""

    query: str = Field("query", description="the writing request")
    reference: str | None = Field(None, description="a reference document, if there is one")
    language: str | None = Field(None, description="a language code; without it every row gets seed.language")


class SeedSettings(Section):
    """Stage `seed`."""

    source: str = Field(description="JSONL, CSV or Parquet file, `dataset[@revision]` on the Hub, or world:seeds")
    split: str = Field("train", description="split of a Hub dataset")
    columns: SeedColumns = SeedColumns()
    language: str = Field("en", description="language code of rows without one")
    license: str = Field("other", description="licence of the source, for the cards")
    shard_rows: Positive = Field(10_000, description="rows a shard; with long references 10 000 stay well below 500 MB")


class GenerateSettings(Section):
    """Stage `generate` (§3.2)."""

    queries: Positive = Field(250, description="K, new queries a round")
    examples: Positive = Field(5, description="seed queries shown in one prompt, drawn uniformly")
    per_prompt: Positive = Field(5, description="queries asked for in one prompt")
    prompt: str = Field("generate.en", description="prompt file in builders/prompts, without .jinja")
    temperature: float = Field(1.0, ge=0)
    top_p: Share = 1.0
    max_new_tokens: Positive = 2048
    max_query_chars: Positive = Field(8000, description="longer queries are dropped")
    max_attempts: Positive = Field(10, description="prompts tried, as a multiple of the fewest that could do")
    shard_queries: Positive = Field(32, description="queries a shard")


class SampleSettings(Section):
    """Stage `sample` (§3.3)."""

    responses: Positive = Field(8, description="m, responses to one query")
    system_prompt: str | None = Field(
        "system.en", pattern=r"^system\.", description="prompt file in builders/prompts; null: none"
    )
    temperature: float = Field(1.0, ge=0)
    top_p: Share = 0.9
    max_new_tokens: Positive = 8192
    shard_queries: Positive = Field(8, description="queries a shard")


class RelevanceWeights(Section):
    """Weights of dense, lexical and multi-vector similarity (eq. 4)."""

    dense: float
    lexical: float
    multivector: float


class ScoreSettings(Section):
    """Stage `score` (eq. 1–4)."""

    ngram: Positive = Field(4, description="n of the distinct n-grams (eq. 2)")
    general_weight: float = Field(1.0, description="w_G (eq. 3)")
    domain_weight: float = Field(1.0, description="w_D (eq. 3)")
    summary_relevance: RelevanceWeights = RelevanceWeights(dense=1.0, lexical=0.3, multivector=1.0)
    document_relevance: RelevanceWeights = RelevanceWeights(dense=0.15, lexical=0.5, multivector=0.35)
    max_length: Positive = Field(8192, description="tokens BGE-M3 reads of a text; the rest is cut and counted")
    window: int | None = Field(None, ge=2, description="perplexity window in tokens; null: the model's own")
    device: str = Field("auto", description="auto, cpu or cuda")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    tokens_per_batch: Positive = Field(16_384, description="padded tokens the language models read together")
    texts_per_batch: Positive = Field(32, description="texts BGE-M3 reads together")


class RankCoefficients(Section):
    """Coefficients of the rank sum rho (eq. 5)."""

    length: float = 1.0
    diversity: float = 1.0
    professionalism: float = 1.0
    relevance_document: float = 0.8
    relevance_summary: float = 0.2
    ppl_domain: float = 1.0


class CalibrateSettings(Section):
    """Stage `calibrate` (eq. 5–10)."""

    coefficients: RankCoefficients = RankCoefficients()
    binary: bool = Field(False, description="replace W by ±1 of the same label: plain KTO on the same data")


class LoopSettings(Section):
    """The semi-online loop (§3.5)."""

    rounds: Positive = Field(4, description="R, dataset renewals; 1 with K = total is the offline variant")


class EvaluateSettings(Section):
    """`grace evaluate`."""

    source: str = Field(description="held-out queries: a file, `dataset[@revision]`, or world:heldout")
    split: str = "test"
    column: str = "query"
    queries: Positive = Field(128, description="queries taken")
    skip: int = Field(0, ge=0, description="queries of the source left out before those taken")
    temperature: float = Field(1.0, ge=0, description="0 is greedy")
    top_p: Share = 1.0


class PublishSettings(Section):
    """How a stage is published."""

    private: bool = Field(False, description="create repositories private")
    license: str = Field("apache-2.0", description="licence id of the produced datasets and models")


class Config(Section):
    """The whole configuration."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,80}$", description="stem of every repository name")
    namespace: str | None = Field(
        None, pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,95}$", description="user or organisation; null: the token's user"
    )
    store: str = Field(".grace/store", description="folder of the local store")
    random_seed: int = Field(0, ge=0, description="root of every random draw")
    threads: int | None = Field(None, ge=1, description="CPU threads of torch; null: all cores")
    world: WorldSettings | None = Field(None, description="make and use the generated world; null: real data")
    models: ModelSettings
    engine: EngineSettings = EngineSettings()
    seed: SeedSettings
    generate: GenerateSettings = GenerateSettings()
    sample: SampleSettings = SampleSettings()
    score: ScoreSettings = ScoreSettings()
    calibrate: CalibrateSettings = CalibrateSettings()
    sft: SFTSettings = SFTSettings()
    train: TrainSettings = TrainSettings()
    loop: LoopSettings = LoopSettings()
    evaluate: EvaluateSettings
    publish: PublishSettings = PublishSettings()

    @property
    def local_namespace(self) -> str:
        """Namespace of the local store's repositories."""
        return self.namespace or "local"


def preset_text(name: str) -> str:
    """The YAML text of a preset."""
    return (resources.files("builders.settings") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")


def load_config(source: str | None, overrides: Iterable[str] = (), store: str | None = None) -> Config:
    """Read a preset or a YAML file and apply overrides.

    Args:
        source: a preset's name or a file; None takes `grace.yaml` in the working directory, else the preset `tiny`.
        overrides: `section.key=value`, values as YAML.
        store: folder of the local store, instead of the configuration's.

    Raises:
        UserError: for an unknown preset, an unreadable file, an unknown key (with the close match) or a bad value.
    """
    data, where = _read(source)
    for override in overrides:
        _apply(data, override)
    if store is not None:
        data["store"] = store
    try:
        return Config.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        raise UserError(_describe(error, where)) from None


def _read(source: str | None) -> tuple[dict[str, Any], str]:
    if source is None:
        source = DEFAULT_FILE if Path(DEFAULT_FILE).is_file() else "tiny"
    if source in PRESETS:
        return read_yaml(preset_text(source)), f"preset {source}"
    path = Path(source)
    if not path.is_file():
        raise UserError(
            f"--config {source}: neither a file nor a preset{_close(source, PRESETS)}; presets: {', '.join(PRESETS)}"
        )
    try:
        data = read_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: holds {type(data).__name__}, a mapping of sections is needed; see `grace init`")
    base = data.pop("preset", None)
    if base is None:
        return data, str(path)
    if base not in PRESETS:
        raise UserError(f"{path}: preset: {base} is unknown{_close(str(base), PRESETS)}; presets: {', '.join(PRESETS)}")
    return _merge(read_yaml(preset_text(base)), data), str(path)


def _merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _apply(data: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise UserError(f"--set {override}: expected section.key=value, such as --set generate.queries=64")
    *sections, key = path.split(".")
    for section in sections:
        child = data.setdefault(section, {})
        if child is None:
            child = data[section] = {}
        if not isinstance(child, dict):
            raise UserError(f"--set {override}: {section} is a value, not a section")
        data = child
    try:
        data[key] = read_yaml(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {override}: {text!r} is not a YAML value: {' '.join(str(error).split())}") from None


def _describe(error: ValidationError, where: str) -> str:
    """The first fault in one line, with the close match for an unknown key."""
    fault = error.errors(include_url=False)[0]
    location = ".".join(str(part) for part in fault["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if fault["type"] == "extra_forbidden":
        section, key = fault["loc"][:-1], str(fault["loc"][-1])
        allowed = sorted(_keys_at(section))
        return f"{where}: unknown key {location}{_close(key, allowed)}; allowed there: {', '.join(allowed)}{more}"
    if fault["type"] == "missing":
        return f"{where}: {location} is missing; give it in the file or by --set {location}=VALUE{more}"
    return f"{where}: {location} is {fault['input']!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}{more}"


def _keys_at(location: tuple[int | str, ...]) -> Iterator[str]:
    model: type[BaseModel] = Config
    for part in location:
        annotation = model.model_fields[str(part)].annotation
        candidates = (annotation, *get_args(annotation))
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    yield from model.model_fields


def _close(word: str, allowed: Iterable[str]) -> str:
    match = difflib.get_close_matches(word, list(allowed), n=1)
    return f", did you mean {match[0]}?" if match else ""
