"""The machine that a plan counts for: memory, arithmetic and bandwidth of one device, and how many there are."""

import os
from dataclasses import dataclass, replace

from builders.settings.base import PlanSettings
from scorers.errors import UserError, did_you_mean

GIB = 2**30
TERA = 1e12


@dataclass(frozen=True)
class Machine:
    """What a plan knows of the machine.

    Attributes:
        name: of one device, as the table has it.
        device: `cuda` or `cpu`.
        count: devices.
        memory: bytes of one device.
        half: FLOP/s of one device with 16-bit numbers, dense, as the maker states them.
        single: FLOP/s with float32.
        bandwidth: bytes/s between its memory and its arithmetic.
        reserve: bytes that programs and libraries take of each device before a model is there.
        origin: where it comes from, in words.
    """

    name: str
    device: str
    count: int
    memory: float
    half: float
    single: float
    bandwidth: float
    reserve: float = 0.0
    origin: str = ""

    def flops(self, width: int) -> float:
        """FLOP/s of one device with numbers of this many bytes."""
        return self.half if width == 2 else self.single


# Usable memory in GiB (as torch reports it), TFLOP/s with 16 bits and with float32, TB/s: makers' data sheets.
GPUS = {
    "h200": (139.0, 989.0, 67.0, 4.8),
    "h100": (78.0, 989.0, 67.0, 3.35),
    "a100-80gb": (79.0, 312.0, 19.5, 2.04),
    "a100-40gb": (39.0, 312.0, 19.5, 1.56),
    "l40s": (44.0, 362.0, 91.6, 0.86),
    "a10": (22.0, 125.0, 31.2, 0.6),
    "rtx-4090": (23.5, 165.0, 82.6, 1.01),
    "rtx-3090": (23.5, 71.0, 35.6, 0.94),
}
CONTEXT = 1.5 * GIB  # of a GPU: CUDA's context, the libraries' workspaces, and what the allocator cannot use
# One core of a CPU: products of float32 matrices, as AVX2 or AVX-512 reach them, and its share of the memory's speed.
CORE_FLOPS = 0.05 * TERA
CORE_BANDWIDTH = 8e9


def machine_of(settings: PlanSettings, threads: int | None, *, origin: str = "plan.gpu") -> Machine:
    """Return the machine that the settings describe: the named GPU, else this machine's, else its CPU.

    Args:
        settings: the section `plan`.
        threads: CPU threads of torch; None for all cores.
        origin: where `plan.gpu` is set, for the output.

    Raises:
        UserError: the GPU is not in the table.
    """
    if settings.gpu == "cpu":
        found = cpu(threads, origin)
    elif settings.gpu is not None:
        found = _gpu(settings.gpu, "plan.gpu", origin)
    else:
        found = _here() or cpu(threads, "this machine, which has no GPU")
    if found.device == "cuda":
        found = replace(found, count=settings.gpus)
    return found if settings.gpu_memory is None else replace(found, memory=settings.gpu_memory * GIB)


def _gpu(name: str, what: str, origin: str) -> Machine:
    """Return one GPU of the table.

    Raises:
        UserError: it is not there.
    """
    if name not in GPUS:
        close = did_you_mean(name, GPUS)
        raise UserError(
            f"{what} {name}: not in the table of GPUs{close}; it has {', '.join(GPUS)}, and cpu: name the one that is "
            "nearest, and its memory by plan.gpu_memory"
        )
    memory, half, single, bandwidth = GPUS[name]
    return Machine(name, "cuda", 1, memory * GIB, half * TERA, single * TERA, bandwidth * TERA, CONTEXT, origin)


def cpu(threads: int | None, origin: str) -> Machine:
    """Return this machine's CPU."""
    import psutil  # type: ignore[import-untyped]

    cores = threads or os.cpu_count() or 1
    memory = float(psutil.virtual_memory().total)
    return Machine(
        f"cpu, {cores} cores", "cpu", 1, memory, cores * CORE_FLOPS, cores * CORE_FLOPS, cores * CORE_BANDWIDTH,
        origin=origin,
    )  # fmt: skip


def _here() -> Machine | None:
    """Return this machine's GPU with its own memory; None without one.

    Raises:
        UserError: it is not in the table.
    """
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    said = properties.name.lower().replace(" ", "-")
    # Of two sizes of one GPU the one whose memory is nearest.
    alike = [name for name in GPUS if name.removesuffix("-80gb").removesuffix("-40gb").removeprefix("rtx-") in said]
    if not alike:
        raise _gpu_unknown(properties.name)
    name = min(alike, key=lambda name: abs(GPUS[name][0] * GIB - properties.total_memory))
    return replace(_gpu(name, "plan.gpu", "this machine's"), memory=float(properties.total_memory))


def _gpu_unknown(name: str) -> UserError:
    return UserError(
        f"plan.gpu: this machine's {name} is not in the table of GPUs ({', '.join(GPUS)}); set plan.gpu to the nearest "
        "one, and plan.gpu_memory to its memory in GiB"
    )
