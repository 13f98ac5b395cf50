"""What all pipelines' configurations share: strict sections, the marker `EXECUTION`, the common settings."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic.fields import FieldInfo

Positive = Annotated[int, Field(ge=1, lt=2**31)]
Share = Annotated[float, Field(gt=0, le=1)]
RUN = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,80}@round-[0-9]{3,5}", re.ASCII)
ADDRESS = re.compile(r"[A-Za-z0-9_.-]+:[0-9]{1,5}|\[[0-9A-Fa-f:.]+\]:[0-9]{1,5}", re.ASCII)
MAX_ROUNDS = 10_000  # of a run; a graph has a few nodes in every one of them
DType = Literal["auto", "float32", "bfloat16", "float16"]


class _Execution:
    """The type of the marker `EXECUTION`."""


EXECUTION = _Execution()
"""Marks a setting that decides time and memory, not the data: batch sizes, devices, numbers of workers.

It stays out of fingerprints, so a smaller batch after an out-of-memory error does not make a dataset stale. The
manifest records it all the same.
"""


class _Said:
    """The type of the marker `SAID`."""


SAID = _Said()
"""Marks what stages say in their prompts: fingerprints have it as part of the prompts of those stages alone.

So other words for the reward model do not ask the teacher again. The manifest records it with the execution settings.
"""


class _Later:
    """The type of the marker `LATER`."""


LATER = _Later()
"""Marks a setting that came after data had been published without it.

Its default stays out of fingerprints and manifests, so revisions of earlier versions stay fresh.
"""


class _Former:
    """The type of the marker `FORMER`."""


FORMER = _Former()
"""Marks a setting that has another name by now: it can only be null.

It stays in fingerprints and manifests, so revisions of earlier versions stay fresh. Nobody is shown it.
"""


def moved(now: str) -> BeforeValidator:
    """Return the validator of a setting marked `FORMER`, which says what to give in its place.

    Args:
        now: the setting that counts, such as `context: {window: N}`.
    """

    def refuse(value: object) -> None:
        if value is not None:
            raise ValueError(f"this setting has another name by now; give {now}")

    return BeforeValidator(refuse)


class _Path:
    """The type of the marker `PATH`."""


PATH = _Path()
"""Marks a setting that may be a path: a relative one counts from the folder of the file that sets it, on the command
line from the working directory."""


class _Private:
    """The type of the marker `PRIVATE`."""


PRIVATE = _Private()
"""Marks a setting that no manifest or card shows and no fingerprint knows, such as the address of a server."""


class Section(BaseModel):
    """Base of every section: no unknown keys, no coercion, immutable."""

    # No NaN or infinity: JSON, in which manifests and results are written, has neither.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def shown_fields(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the settings of a section by name, without those that have another name by now."""
    return {name: field for name, field in section.model_fields.items() if FORMER not in field.metadata}


def shown_values(section: BaseModel) -> dict[str, Any]:
    """Return a section as JSON values, without the settings that have another name by now."""
    plain = section.model_dump(mode="json")
    values = {name: getattr(section, name) for name in shown_fields(type(section))}
    return {n: shown_values(value) if isinstance(value, BaseModel) else plain[n] for n, value in values.items()}


class PublishSettings(Section):
    """How a stage is published."""

    private: bool = Field(False, description="create repositories private")
    license: str = Field("apache-2.0", description="licence id of the produced datasets and models")


class ExecutorSettings(Section):
    """Where the shards of datasets are built; the bytes are the same everywhere."""

    kind: Annotated[Literal["local", "ray"], EXECUTION] = Field(
        "local",
        description="local: this machine; ray: a Ray cluster, whose nodes share the folders of store and models",
    )
    workers: Annotated[Positive | None, EXECUTION] = Field(
        None,
        description="processes that build shards, each with its own models; null: this one alone, on Ray as many as "
        "there is room for",
    )
    address: Annotated[str | None, EXECUTION] = Field(
        None,
        description="Ray cluster to join, host:port or auto for the one of this machine; null: a Ray of this run's own",
    )
    cpus: Annotated[Positive, EXECUTION] = Field(1, description="CPU cores that Ray sets aside for each worker")
    gpus: Annotated[float | None, EXECUTION] = Field(
        None,
        ge=0,
        le=1024,
        description="GPUs of each worker, such as 2 or 0.5; null: one, and none where there are none",
    )

    @field_validator("address")
    @classmethod
    def _names_a_cluster(cls, value: str | None) -> str | None:
        if value is not None and value != "auto" and not ADDRESS.fullmatch(value):
            raise ValueError("expected auto, or host:port such as 10.0.0.1:6379")
        return value

    @field_validator("gpus")
    @classmethod
    def _whole_above_one(cls, value: float | None) -> float | None:
        if value is not None and value > 1 and value != int(value):
            raise ValueError("expected a whole number, or a share of one GPU such as 0.5")
        return value

    @model_validator(mode="after")
    def _address_is_of_ray(self) -> Self:
        if self.address is not None and self.kind != "ray":
            raise ValueError("an address is that of a Ray cluster; set kind to ray too (--executor ray)")
        return self


class WorldSettings(Section):
    """The generated world of the tiny presets: its documents and its models, made on this machine."""

    seed: int = Field(description="seed of the world's texts and of its models' training; default random_seed", ge=0)


class PlanSettings(Section):
    """What `grace plan` counts for and assumes; it decides nothing that is built."""

    gpu: str | None = Field(
        None, description="name in the table of GPUs, such as h100 or a100-80gb, or cpu; null: this machine's"
    )
    gpus: Positive = Field(1, description="GPUs of the node")
    gpu_memory: float | None = Field(None, gt=0, description="GiB of one GPU; null: as the table says")
    utilisation: Share = Field(0.4, description="share of the stated FLOP/s that matrix products reach")
    bandwidth_share: Share = Field(0.6, description="share of the stated memory bandwidth that is reached")
    response_share: Share = Field(
        0.5, description="mean length of a response as a share of the longest, until the store holds responses"
    )
    query_tokens: Positive = Field(128, description="mean tokens of a query")


class Settings(Section):
    """The settings that every pipeline has; each pipeline's own class adds its sections.

    Attributes:
        VARIANTS: by name, settings that belong together, by dotted path; the setting `variant` names one of them. It
            takes the place of what a preset says, and a file or `--set` that of the variant.
    """

    VARIANTS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    pipeline: str = Field(description="which pipeline is built, such as grace-kto")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,80}$", description="stem of every repository name")
    namespace: str | None = Field(
        None, pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,95}$", description="user or organisation; null: the token's user"
    )
    continues: Annotated[str | None, EXECUTION] = Field(
        None,
        description="namespace/name@round-NNN: go on after that round of another run, here or on the Hub; null: a run "
        "of its own",
    )
    store: str = Field(".grace/store", description="folder of the local store")
    random_seed: int = Field(0, ge=0, description="root of every random draw; each section's seed follows from it")
    threads: int | None = Field(None, ge=1, le=4096, description="CPU threads of torch; null: all cores")
    workers: Positive = Field(1, description="models that are trained at the same time, each in a process of its own")
    nproc: Annotated[Positive, EXECUTION] = Field(
        1, description="processes of this machine that train a policy together, one per GPU, as torchrun starts them"
    )
    executor: Annotated[ExecutorSettings, EXECUTION] = ExecutorSettings()
    world: WorldSettings = WorldSettings(seed=0)
    publish: PublishSettings = PublishSettings()
    plan: Annotated[PlanSettings, EXECUTION] = PlanSettings()

    @model_validator(mode="before")
    @classmethod
    def _defaults_stay(cls, data: Any) -> Any:
        """Give a section of which a part is set the defaults that it has in this pipeline, not those of its class."""
        if not isinstance(data, dict):
            return data
        filled = dict(data)
        for name, field in cls.model_fields.items():
            if isinstance(field.default, BaseModel) and isinstance(filled.get(name), dict):
                own = field.default.model_dump(exclude_unset=True, exclude={"seed"})
                filled[name] = {**own, **filled[name]}
        return filled

    @model_validator(mode="before")
    @classmethod
    def _seeds_follow(cls, data: Any) -> Any:
        """Give every section that has a `seed` the root's random_seed, unless it sets its own.

        This runs before validation, on the values as they were read.
        """
        root = data.get("random_seed", 0) if isinstance(data, dict) else None
        if type(root) is not int or root < 0:
            return data  # validation reports the bad random_seed, once and not per section
        filled = dict(data)
        for name, field in cls.model_fields.items():
            section = field.annotation
            if isinstance(section, type) and issubclass(section, BaseModel) and "seed" in section.model_fields:
                given = filled.get(name, {})
                if isinstance(given, dict) and section.model_fields["seed"].annotation is int:
                    filled[name] = {"seed": root, **given}
        return filled

    @field_validator("continues")
    @classmethod
    def _names_a_round(cls, value: str | None) -> str | None:
        if value is not None and not RUN.fullmatch(value):
            raise ValueError("expected namespace/name@round-NNN, such as alice/demo@round-002")
        return value

    @field_validator("store")
    @classmethod
    def _is_a_folder(cls, value: str) -> str:
        if not value.strip() or "://" in value:
            raise ValueError("expected a folder of this machine, such as .grace/store")
        return value

    def adapter_rank(self, role: str) -> int | None:
        """Rank of the LoRA adapters that later models of a role are; None where they are whole models, or unknown."""
        return None

    def models_of(self, role: str) -> Sequence[str]:
        """Names of the models that an engine's role runs; none where none is set."""
        name = getattr(getattr(self, "models", None), role, None)
        return [] if name is None else [name]

    @property
    def local_namespace(self) -> str:
        """Namespace of the repositories in the local store; `local` where none is set."""
        return self.namespace or "local"


def section_at(config: Settings, path: str) -> Any:
    """Return the section or single setting at a dotted path, such as `engines.policy`."""
    value: Any = config
    for part in path.split("."):
        value = getattr(value, part)
    return value


def identity(value: Any) -> Any:
    """Return a section as plain values, without the settings marked `EXECUTION`; a single setting as it is."""
    return _plain(value)


def execution(value: Any) -> dict[str, Any]:
    """Return the settings of a section, or of the sections of a mapping, that are marked `EXECUTION` or `SAID`."""
    if isinstance(value, dict):
        return {name: found for name, below in value.items() if (found := execution(below))}
    return _split(value)[1] if isinstance(value, BaseModel) else {}


def _split(section: BaseModel) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a section's settings in two parts: those that decide the data, and those marked `EXECUTION`.

    Those marked `PRIVATE` are in neither.
    """
    decides: dict[str, Any] = {}
    merely: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if PRIVATE in field.metadata:
            continue
        if EXECUTION in field.metadata or SAID in field.metadata:
            merely[name] = value
        elif LATER in field.metadata and value == field.default:
            continue
        elif isinstance(value, BaseModel):
            decides[name], below = _split(value)
            if below:
                merely[name] = below
        else:
            decides[name] = _plain(value)
    return decides, merely


def _plain(value: Any) -> Any:
    """Return a setting as JSON has it, of sections in a list or a mapping what decides the data."""
    if isinstance(value, BaseModel):
        return _split(value)[0]
    if isinstance(value, dict):
        # A section that decides nothing by itself, such as a task's, is left out.
        return {key: found for key, below in value.items() if (found := _plain(below)) != {} or below == {}}
    return [_plain(below) for below in value] if isinstance(value, tuple) else value


def left_out(section: Any) -> set[str]:
    """Return the settings of a section that its identity leaves out, since they are `LATER` and have their default."""
    if not isinstance(section, BaseModel):
        return set()
    fields = type(section).model_fields.items()
    return {name for name, field in fields if LATER in field.metadata and getattr(section, name) == field.default}


def identities(config: Settings, sections: Iterable[str]) -> dict[str, Any]:
    """Return the settings that decide the data, by section."""
    return {path: identity(section_at(config, path)) for path in sections}


def executions(config: Settings, sections: Iterable[str]) -> dict[str, Any]:
    """Return the settings that decide time and memory alone, by section; sections without any are left out."""
    found = {path: execution(section_at(config, path)) for path in sections}
    return {path: values for path, values in found.items() if values}
