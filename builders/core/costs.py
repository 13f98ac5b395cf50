"""What a configuration will cost, as plain data: memory, tokens, bytes, hours, each with the formula it comes from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Unit = Literal["parameters", "bytes", "tokens", "hours", "GPU-hours"]


@dataclass(frozen=True)
class Cost:
    """One line of a plan.

    Attributes:
        section: what it belongs to, such as `memory: train`.
        part: what is counted.
        value: the number, in its unit.
        unit: what it is a number of.
        formula: how it comes about, in words and numbers.
    """

    section: str
    part: str
    value: float
    unit: Unit
    formula: str


@dataclass(frozen=True)
class CostPlan:
    """What a configuration will cost on a machine.

    Attributes:
        name: of the run.
        machine: the machine that is counted for, in words.
        assumptions: what the numbers rest on besides the configuration, a sentence each.
        costs: the lines, section by section.
    """

    name: str
    machine: str
    assumptions: Sequence[str]
    costs: Sequence[Cost]


@dataclass(frozen=True)
class Rehearsed:
    """One part of a rehearsal.

    Attributes:
        part: the stage.
        seconds: how long it took, loading included.
        memory: bytes that this process held at the most, of a GPU where there is one, else of the CPU's memory.
        hours: of this part in the full run, by the ratio of their tokens; None for what takes next to nothing.
        note: what was different from a full run, or empty.
    """

    part: str
    seconds: float
    memory: int
    hours: float | None
    note: str = ""
