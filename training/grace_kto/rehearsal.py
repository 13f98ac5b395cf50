"""A rehearsal of a GRACE-KTO run: its whole loop once, on two queries and a few dozen tokens, in a throw-away store.

Models, engines, devices, methods and precisions are the configuration's own; what is small is how much is written and
trained. Its seeds are the two documents below, since the user's may be large or, for a first look, missing. A policy
that has learned nothing writes no list of queries and no tagged form: then the seeds' own queries go on, and the two
documents stand for responses, so that scoring, calibration and training have something to work on; the result says so.
"""

import logging
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from builders.core.costs import Rehearsed
from builders.core.draws import query_id
from builders.core.run import run
from builders.core.runner import StageResult
from builders.grace_kto.columns import GROUPS_COLUMNS, QUERIES_COLUMNS
from builders.grace_kto.generate import TooFewQueries
from builders.grace_kto.settings import GraceKTOSettings
from builders.settings.engines import OpenAIEngineSettings
from builders.store.columns import frame_of
from builders.store.files import write_text
from builders.store.ref import REPO
from builders.store.store import Store
from scorers.errors import UserError
from scorers.extraction import extract
from training.costs.hardware import machine_of
from training.grace_kto.planned import Run

TOKENS = 48  # that a reply and a response have at most
DOCUMENTS = {
    "Please write a short report on the trade of a harbour.": (
        "<summary>The report treats the trade of a harbour.</summary><outline>1. Growth\n2. Prices</outline>"
        "<answer>1. Growth\nThe harbour grew within a decade.\n2. Prices\nPrices fell as more ships came.</answer>"
    ),
    "Please write a short report on the bridges of a town.": (
        "<summary>The report treats the bridges of a town.</summary><outline>1. Age\n2. Use</outline>"
        "<answer>1. Age\nThe oldest bridge is of stone.\n2. Use\nCarts cross it in the morning.</answer>"
    ),
}

log = logging.getLogger(__name__)


def rehearse(config: GraceKTOSettings, *, random_weights: bool) -> list[Rehearsed]:
    """Run every stage and training once and measure them; nothing of it is left behind.

    Args:
        config: the configuration of the full run.
        random_weights: make models of the same shapes instead of loading the configuration's.

    Returns:
        One entry per part, in the order of the work.

    Raises:
        UserError: as the stages do; the full run would have ended so too.
    """
    if isinstance(config.engines.policy, OpenAIEngineSettings):
        raise UserError(
            "grace rehearse needs the policy itself, and engines.policy.kind is openai, a server; set "
            "engines.policy.kind to transformers or vllm"
        )
    with tempfile.TemporaryDirectory(prefix="grace-rehearsal-") as folder:
        return list(_parts(config, Path(folder), random_weights))


def small(config: GraceKTOSettings, folder: Path) -> GraceKTOSettings:
    """Return a configuration with everything small that decides how much is written and trained.

    Args:
        config: the configuration of the full run.
        folder: folder of the rehearsal, with the seeds' file in it.
    """
    lines = [{"query": query, "reference": text} for query, text in DOCUMENTS.items()]
    write_text(folder / "seeds.jsonl", "".join(pl.DataFrame(lines).write_ndjson()))
    rows = max(2, config.nproc)  # of an optimizer batch, one for each process at least
    changes: dict[str, dict[str, Any]] = {
        "seed": {"source": str(folder / "seeds.jsonl"), "subset": None, "split": None, "language": "en"},
        "generate": {"queries": 2, "examples": 2, "per_prompt": 2, "max_attempts": 1, "max_new_tokens": TOKENS},
        "sample": {"responses": rows, "max_new_tokens": TOKENS},
        "criteria": {"attempts": 1, "max_new_tokens": TOKENS},
        "rate": {"attempts": 1, "max_new_tokens": TOKENS},
        "sft": {"steps": 2, "batch_size": rows, "device_batch_size": 1},
        "train": {"batch_size": rows, "device_batch_size": 1, "save_steps": None},
        "loop": {"rounds": 1, "held_out": 0},
    }
    sections = {name: getattr(config, name).model_copy(update=values) for name, values in changes.items()}
    columns = config.seed.columns.model_copy(update={"query": "query", "reference": "reference", "language": None})
    sections["seed"] = sections["seed"].model_copy(update={"columns": columns})
    own = {"name": "rehearsal", "namespace": None, "continues": None, "store": str(folder / "store"), "workers": 1}
    return config.model_copy(update={**sections, **own})


def _parts(config: GraceKTOSettings, folder: Path, random_weights: bool) -> Iterator[Rehearsed]:
    """Yield the parts as they end."""
    tiny, store = small(config, folder), Store(Path(config.store))
    full = Run(config, machine_of(config.plan, config.threads), store)
    tiny = tiny.model_copy(update={"models": _held(config, store)})
    if random_weights:
        with _Watch() as watch:
            tiny = tiny.model_copy(update={"models": _random(config, store, folder)})
        yield Rehearsed("random models", watch.seconds, watch.memory, None, "made here, nothing is downloaded")
    written, wanted = _tokens(Run(tiny, full.machine, Store(Path(tiny.store))), TOKENS), _tokens(full, None)
    start: str | None = None
    for stage in ("seed", "sft", "generate", "sample", "score", "calibrate", "policy"):
        if stage == "sft" and tiny.models.policy != "sft":
            continue
        note = ""
        with _Watch() as watch:
            try:
                result = _build(tiny, stage, start)
            except TooFewQueries:
                start, note = _queries(folder), "the policy's replies hold no queries: the seeds' go on"
        if stage == "sample" and not result.revision.scan().select("matched").collect()["matched"].any():
            start, note = _groups(folder), "no response has the tagged form: two documents stand for responses"
        elif stage == "sample":
            start = None
        ratio = wanted[stage] / written[stage] if stage in wanted else None
        hours = None if ratio is None else ratio * watch.seconds / 3600
        log.info("rehearsal: %s in %.1f s", stage, watch.seconds)
        yield Rehearsed(stage, watch.seconds, watch.memory, hours, note)


def _build(config: GraceKTOSettings, stage: str, start: str | None) -> StageResult:
    """Build one stage; what stands above it is there already."""
    from training.grace_kto.pipeline import GRACE_KTO

    if stage == "policy" and start is not None:  # trains on the weights made from what took the samples' place
        start = f"{config.local_namespace}/{config.name}-weights@round-001"
    return run(GRACE_KTO, config, stage, start=start if stage not in ("seed", "sft", "generate") else None)[-1]


def _names(config: GraceKTOSettings) -> dict[str, str]:
    """Return the models that the configuration names, by role."""
    found = {role: getattr(config.models, role) for role in type(config.models).model_fields}
    return {role: name for role, name in found.items() if name is not None}


def _held(config: GraceKTOSettings, store: Store) -> Any:
    """Return the models' section in which models of the run's store are folders: the rehearsal's store is empty."""
    found = {}
    for role, name in _names(config).items():
        repo, _, revision = name.partition("@")
        held = store.find(repo, revision or "main", "model") if REPO.fullmatch(repo) else None
        found[role] = name if held is None or not (held.path / "config.json").is_file() else str(held.path)
    return config.models.model_copy(update=found)


def _random(config: GraceKTOSettings, store: Store, folder: Path) -> Any:
    """Return the models' section with folders of random models, one for each name."""
    from training.random_models import random_model

    names = _names(config)
    made = {
        name: str(random_model(name, store, folder / f"model-{number}"))
        for number, name in enumerate(dict.fromkeys(names.values()))
        if name != "sft" and not name.startswith("world:")
    }
    return config.models.model_copy(update={role: made.get(name, name) for role, name in names.items()})


def _tokens(run: Run, written: int | None) -> dict[str, float]:
    """Tokens that each part of a run reads and writes in all rounds.

    Args:
        run: the run.
        written: tokens of a response; None for the run's own mean.
    """
    config, rounds = run.config, run.config.loop.rounds
    response = run.written.value if written is None else written
    rows = rounds * run.rows
    per_query = config.plan.query_tokens
    prompts = rounds * -(-config.generate.queries // config.generate.per_prompt)
    documents = (
        float(config.sft.steps * config.sft.batch_size) if config.sft.steps else run.seeds.value * config.sft.epochs
    )
    return {
        "sft": documents * (run.prompt + response),
        "generate": prompts * min(config.generate.max_new_tokens, per_query * config.generate.per_prompt),
        "sample": rows * response,
        "score": rows * response,
        "policy": rows * (run.prompt + response),
    }


def _queries(folder: Path) -> str:
    """Write the seeds' queries as a dataset of queries, and return its folder."""
    rows = [
        {
            "query_id": query_id(query),
            "query": query,
            "language": "en",
            "round": 1,
            "example_ids": [],
            "generator": "seed",
        }
        for query in DOCUMENTS
    ]
    return _dataset(folder / "queries", frame_of(rows, QUERIES_COLUMNS))


def _groups(folder: Path) -> str:
    """Write the documents as responses to each query, and return the dataset's folder."""
    rows: list[dict[str, Any]] = []
    for query in DOCUMENTS:
        for number, text in enumerate(DOCUMENTS.values()):
            parts = extract(text)
            if parts is None:
                raise ValueError("a document of the rehearsal does not have the tagged form")
            identity = query_id(query)
            rows.append(
                {
                    "query_id": identity, "query": query, "round": 1, "response_id": f"{identity}-{number}",
                    "response": text, "summary": parts.summary, "outline": parts.outline, "document": parts.document,
                    "matched": True, "finish_reason": "stop", "num_tokens": TOKENS, "logprob": None, "sample_seed": 0,
                    "policy": "rehearsal",
                }
            )  # fmt: skip
    return _dataset(folder / "groups", frame_of(rows, GROUPS_COLUMNS))


def _dataset(folder: Path, frame: pl.DataFrame) -> str:
    (folder / "data").mkdir(parents=True)
    frame.write_parquet(folder / "data" / "train-00000-of-00001.parquet")
    return str(folder)


class _Watch:
    """Measures seconds, and the most memory that this process held meanwhile."""

    seconds = 0.0
    memory = 0

    def __enter__(self) -> "_Watch":
        self._began = time.monotonic()
        _new_peak()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds = time.monotonic() - self._began
        self.memory = _peak()


def _new_peak() -> None:
    """Let the peak of memory begin anew, on a GPU and, where the system can, on the CPU."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")


def _peak() -> int:
    """Bytes held at the most since `_new_peak`; where the system cannot tell, since the process began."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_reserved())
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    held = next((line for line in lines if line.startswith("VmHWM:")), None)
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if held is None else int(held.split()[1]))
