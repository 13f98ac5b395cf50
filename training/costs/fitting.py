"""What cannot fit a machine's memory, and what would: the sentences of a plan that refuses."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from builders.settings.engines import LocalEngineSettings, VllmEngineSettings
from scorers.errors import UserError
from training.costs.hardware import GIB, Machine
from training.costs.inference import Sampling, parallel, sampling_memory
from training.costs.shapes import Shape
from training.costs.training import Amount

NODE = "plan.gpus"
PROCESSES = "nproc"
"""The names under which changes of the numbers of GPUs and processes stand among changes of settings."""


def require_fit(faults: Iterable[str | None]) -> None:
    """Refuse a plan of which a part cannot fit.

    Raises:
        UserError: naming every such part, what it needs and what would fit.
    """
    found = [fault for fault in faults if fault is not None]
    if found:
        raise UserError("; and ".join(found))


def refused(what: str, peak: float, machine: Machine, changes: Mapping[str, Any], then: float) -> str:
    """Say that something does not fit, and with which changes it would.

    Args:
        what: what does not fit.
        peak: bytes that it needs of one device.
        machine: the machine.
        changes: settings that would do, by dotted path.
        then: bytes with them.
    """
    named = " ".join(f"{name}={str(value).lower()}" for name, value in changes.items())
    return f"{_too_much(what, peak, machine)}; with {named} it needs {then / GIB:,.1f} GiB"


def fits_nowhere(what: str, peak: float, machine: Machine, way_out: str) -> str:
    """Say that something does not fit, whatever is set."""
    return f"{_too_much(what, peak, machine)}; no setting of it helps: take {way_out}"


def _too_much(what: str, peak: float, machine: Machine) -> str:
    return (
        f"{what} needs {peak / GIB:,.1f} GiB of one {machine.name.partition(',')[0]}, which has "
        f"{machine.memory / GIB:,.1f} GiB"
    )


def sampling_fault(
    role: str, shape: Shape, engine: LocalEngineSettings, use: Sampling, machine: Machine, width: int
) -> str | None:
    """What of sampling does not fit and what would, in words; None where all does.

    Args:
        role: of the model that writes, such as `policy`.
        shape: the model.
        engine: the settings of `engines.<role>`.
        use: how it samples.
        machine: where.
        width: bytes of a number.
    """
    what = f"engines.{role}: sampling with {shape.name}"
    gpus = parallel(engine)
    if machine.device == "cuda" and gpus > machine.count:
        return f"{what} is spread over {gpus} GPUs, and there are {machine.count}; set tensor_parallel to that number"
    peak = _peak(shape, engine, use, machine, width)
    if peak <= _share(engine, machine):
        return None
    for changes in _sampling_ways_out(engine, machine):
        other = engine.model_copy(update=dict(changes))
        then = _peak(shape, other, use, machine, width)
        if then <= _share(other, machine):
            named = {f"engines.{role}.{name}": value for name, value in changes.items()}
            return refused(what, peak, machine, named, then)
    return fits_nowhere(what, peak, machine, "more GPUs, shorter responses, a smaller window or a smaller model")


def _peak(shape: Shape, engine: LocalEngineSettings, use: Sampling, machine: Machine, width: int) -> float:
    return sampling_memory(shape, engine, use, machine, width)["peak"].value


def _share(engine: LocalEngineSettings, machine: Machine) -> float:
    """Bytes of a device that an engine may take."""
    return machine.memory * (engine.memory_share if isinstance(engine, VllmEngineSettings) else 1.0)


def _sampling_ways_out(engine: LocalEngineSettings, machine: Machine) -> list[Mapping[str, Any]]:
    """Changes to try, the smallest first."""
    if isinstance(engine, VllmEngineSettings):
        wider = [n for n in (2, 4, 8) if n <= machine.count and n > engine.tensor_parallel]
        return [{"tensor_parallel": count} for count in wider]
    return [{"batch_size": size} for size in (64, 32, 16, 8, 4, 2, 1) if size < engine.batch_size]


def share_fault(role: str, model: str, parts: Mapping[str, Amount], share: float, machine: Machine) -> str | None:
    """What of a perplexity model does not fit vLLM's share of the memory, in words; None where it fits.

    Args:
        role: `general` or `domain`.
        model: its name.
        parts: its `weights` and what is `held`, in bytes.
        share: the setting.
        machine: where it runs.
    """
    weights, held = parts["weights"].value, parts["held"].value
    if weights < held:
        return None
    needed = math.ceil(100 * weights / machine.memory) / 100 + 0.05
    way_out = f"score.memory_share={needed:.2f}" if needed <= 0.5 else "score.engine=transformers, or a smaller model"
    return (
        f"score: the weights of models.{role} {model} have {weights / GIB:,.1f} GiB, and vLLM's share of one "
        f"{machine.name.partition(',')[0]} is {held / GIB:,.1f} GiB (score.memory_share {share:g}); take {way_out}"
    )


def scoring_fault(peak: float, tokens_per_batch: int, dtype: str, machine: Machine) -> str | None:
    """What of scoring does not fit, in words; None where all does.

    Args:
        peak: bytes that the scorers need together.
        tokens_per_batch: the setting.
        dtype: the setting.
        machine: where they run.
    """
    if peak <= machine.memory:
        return None
    narrower = "" if dtype in ("bfloat16", "float16") else "score.dtype=bfloat16, "
    return fits_nowhere(
        "score: the three scorers", peak, machine,
        f"{narrower}score.tokens_per_batch below {tokens_per_batch}, score.texts_per_batch=1, or smaller scorers",
    )  # fmt: skip
