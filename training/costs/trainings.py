"""One training of a run: what it needs of each device and how long it takes, on a machine."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from builders.settings.base import PlanSettings
from builders.settings.kto import TrainSettings
from builders.settings.sft import TuningSettings
from training.costs.fitting import NODE, PROCESSES, fits_nowhere, refused
from training.costs.hardware import Machine
from training.costs.shapes import Shape
from training.costs.training import (
    STEP_BYTES,
    Amount,
    Step,
    forward_flops,
    row_work,
    step_seconds,
    training_memory,
    width_of,
)
from training.memory import STATES, Sizes, Zero, count_in, training_need, zero_of
from training.processes import share_batch

LINK, PCIE, HOST = 300e9, 25e9, 200e9  # bytes/s between GPUs, to the CPU's memory of one GPU, and of that memory


@dataclass(frozen=True)
class Rows:
    """The rows of one training.

    Attributes:
        count: rows in all.
        mean: tokens of a row on average.
        longest: tokens of the longest row.
        labelled: share of a row's tokens whose log-probability is needed.
    """

    count: float
    mean: float
    longest: float
    labelled: float


@dataclass(frozen=True)
class Training:
    """A training on a machine.

    Attributes:
        section: its settings' section, `sft` or `train`.
        settings: the section.
        shape: the model.
        sizes: its numbers of parameters, with the adapter's.
        machine: where it runs.
        processes: that train together, one on each GPU.
        rows: what it trains on.
        kl: whether a step reads borrowed completions too.
        plan: the rates that are assumed.
    """

    section: str
    settings: TrainSettings | TuningSettings
    shape: Shape
    sizes: Sizes
    machine: Machine
    processes: int
    rows: Rows
    kl: bool
    plan: PlanSettings

    @classmethod
    def of(
        cls, section: str, settings: TrainSettings | TuningSettings, shape: Shape, machine: Machine, processes: int,
        rows: Rows, plan: PlanSettings, *, kl: bool,
    ) -> "Training":  # fmt: skip
        """Describe a training of a shape under some settings.

        Raises:
            UserError: the processes do not share the optimizer's batch.
        """
        share_batch(section, settings.batch_size, settings.device_batch_size, processes)
        sizes = count_in(shape.config, settings, shape.name)
        return cls(section, settings, shape, sizes, machine, processes, rows, kl, plan)

    @property
    def bf16(self) -> bool:
        """Whether it computes in bfloat16; `auto` does on every GPU of the table."""
        return self.settings.precision == "bf16" or (
            self.settings.precision == "auto" and self.machine.device == "cuda"
        )

    @property
    def zero(self) -> Zero:
        """What DeepSpeed shards."""
        return zero_of(self.section, self.settings.deepspeed)

    @property
    def device_batch(self) -> int:
        """Rows of a forward pass of one process."""
        settings = self.settings
        return share_batch(self.section, settings.batch_size, settings.device_batch_size, self.processes)[0]

    def step(self, tokens: float) -> Step:
        """One forward and backward pass over rows of this many tokens."""
        accumulates = self.settings.batch_size > self.device_batch * self.processes
        labelled = max(1.0, tokens * self.rows.labelled)
        return Step(self.device_batch, tokens, labelled, accumulates, self.machine.device, self.bf16, self.kl)

    def memory(self) -> dict[str, Amount]:
        """Bytes of one process by part, with its longest rows."""
        step = self.step(self.rows.longest)
        found = training_memory(self.shape, self.sizes, self.settings, self.zero, self.processes, step)
        if self.machine.device == "cuda":
            found["CUDA"] = Amount(self.machine.reserve, "context, workspaces and what the allocator cannot use")
        peak = found.pop("peak")
        host = training_need(self.sizes, self.settings, self.zero, self.processes, bf16=self.bf16).host
        if host:
            found["CPU's memory"] = Amount(host, "optimizer and gradients that DeepSpeed keeps there, of one process")
        said = f"{peak.formula}; {step.rows} rows of {step.tokens:,.0f} tokens, one of {self.processes} processes"
        return found | {"peak": Amount(peak.value + self.machine.reserve, said)}

    def peak(self) -> float:
        """Bytes that one process needs of its device."""
        return self.memory()["peak"].value

    def fault(self) -> str | None:
        """What does not fit and what would, in words; None where it fits."""
        peak = self.peak()
        what = f"{self.section}: {self.settings.method} of {self.shape.name}"
        if self.machine.device == "cuda" and self.processes > self.machine.count:
            return (
                f"{what} runs in {self.processes} processes (nproc), one on each GPU, and plan.gpus is "
                f"{self.machine.count}; lower nproc, or set plan.gpus to what there is"
            )
        if peak <= self.machine.memory:
            return None
        for changes in self._ways_out():
            # The numbers of GPUs and processes are the machine's and the run's, all else the section's.
            processes = changes.get(PROCESSES, self.processes)
            updates = {name: value for name, value in changes.items() if name not in (NODE, PROCESSES)}
            settings = self.settings.model_copy(update=updates)
            if settings.batch_size % (processes * (settings.device_batch_size or 1)):
                continue
            other = replace(
                self, settings=settings, sizes=count_in(self.shape.config, settings, self.shape.name),
                processes=processes,
            )  # fmt: skip
            if other.peak() <= self.machine.memory:
                run_wide = (NODE, PROCESSES)
                named = {
                    name if name in run_wide else f"{self.section}.{name}": value for name, value in changes.items()
                }
                return refused(what, peak, self.machine, named, other.peak())
        return fits_nowhere(what, peak, self.machine, "a smaller model, shorter responses, or GPUs with more memory")

    def _ways_out(self) -> list[Mapping[str, Any]]:
        """Changes to try, the smallest first."""
        settings = self.settings
        several = self.machine.device == "cuda"
        small = {"device_batch_size": 1, "gradient_checkpointing": True}
        rows = {name: value for name, value in small.items() if getattr(settings, name) != value}
        found: list[Mapping[str, Any]] = [*({name: value} for name, value in rows.items()), *([rows] if rows else [])]
        methods = {"full": ("lora", "qlora"), "lora": ("qlora",), "qlora": ()}[settings.method]
        found += [{**rows, "method": method} for method in methods]
        if several:
            counts = [count for count in (self.processes, 2, 4, 8, 16) if count >= self.processes]
            for count in dict.fromkeys(counts):
                node = {} if count == self.processes else {PROCESSES: count}
                node |= {} if count <= self.machine.count else {NODE: count}
                # DeepSpeed does not share out weights in 4 bits.
                stages = ("zero2",) if settings.method == "qlora" else ("zero2", "zero3")
                found += [{**rows, "deepspeed": zero, **node} for zero in stages if count > 1]
                found += [{**rows, "method": "lora", "deepspeed": "zero3", **node}] if count > 1 else []
        return found

    def _moving(self, shared: float, passes: float) -> Amount:
        """Seconds of one step in which DeepSpeed moves weights between GPUs, and gradients to the CPU's optimizer.

        Args:
            shared: trained parameters of one process.
            passes: forward and backward passes of one process.
        """
        weights = self.sizes.total * self.width
        times = (3 if self.settings.gradient_checkpointing else 2) * passes
        gathered = times * weights / LINK if self.zero.stage == 3 else 0.0
        stepped = 0.0
        if self.zero.optimizer != "none":  # of all processes at once: they share the CPU's memory
            stepped = shared * (2 * self.width / PCIE + STEP_BYTES * self.processes / HOST)
        return Amount(
            gathered + stepped,
            f"DeepSpeed's moving of {weights / 1e9:,.0f} GB of weights ({gathered:,.3g} s a step at {LINK / 1e9:,.0f} "
            f"GB/s) and of the optimizer on the CPU ({stepped:,.3g} s at {HOST / 1e9:,.0f} GB/s)",
        )

    @property
    def trained(self) -> int:
        """Parameters that the optimizer steps."""
        return self.sizes.total if self.settings.method == "full" else self.sizes.adapter

    @property
    def width(self) -> int:
        """Bytes of a number of the weights that are held."""
        return width_of(self.settings, self.zero, bf16=self.bf16)

    @property
    def saved(self) -> int:
        """Bytes of what it saves: a model, or an adapter in float32; SFT merges its adapter."""
        if self.settings.method == "full":
            return self.sizes.total * self.width
        return self.sizes.total * self.sizes.stored if self.section == "sft" else 4 * self.sizes.adapter

    @property
    def saved_words(self) -> str:
        """How the saved bytes come about."""
        if self.section == "train" and self.settings.method != "full":
            return f"4 bytes × {self.sizes.adapter:,} parameters of the adapter"
        return f"{self.saved // self.sizes.total} bytes × {self.sizes.total:,} parameters"

    @property
    def state(self) -> int:
        """Bytes of the optimizer's state that a policy carries to the next round; SFT keeps none."""
        return STATES[self.settings.optimizer] * self.trained if self.section == "train" else 0

    def seconds(self) -> Amount:
        """Seconds of the whole training, with the reference's log-probabilities for KTO."""
        step = self.step(self.rows.mean)
        work = row_work(self.shape, self.sizes, self.settings, step, self.zero)
        each = self.settings.batch_size / self.processes
        steps = self.rows.count / self.settings.batch_size
        rates = {"utilisation": self.plan.utilisation, "bandwidth_share": self.plan.bandwidth_share}
        width = 2 if self.bf16 else 4
        shared = self.trained / self.processes if self.zero.stage else self.trained
        on_device = shared if self.zero.optimizer == "none" else 0.0
        one = step_seconds(work, each, on_device, self.machine, width, **rates)
        moving = self._moving(shared, each / self.device_batch)
        one += moving.value
        reference = 0.0
        if isinstance(self.settings, TrainSettings):
            passes = 2 if self.kl else 1
            flops = self.rows.count * passes * forward_flops(self.shape, step.tokens)
            reference = flops / (self.processes * self.machine.flops(width) * self.plan.utilisation)
        said = f"{steps:,.0f} steps × {one:,.3g} s on {self.processes} device{'s' if self.processes > 1 else ''}"
        said += f" (a row of {step.tokens:,.0f} tokens: {work.formula})"
        said += f" + {moving.formula}" if moving.value else ""
        return Amount(steps * one + reference, said + (f" + reference {reference:,.0f} s" if reference else ""))
