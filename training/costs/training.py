"""Memory and arithmetic of one training step, counted from a model's shape and the settings.

Of the memory that `training.memory` does not count, this counts the activations that autograd keeps for the backward
pass, layer by layer as transformers' modules write them, the buffers of the head, and what the optimizer needs while it
steps. One token of one layer keeps, with H the state's width, A that of all heads, I that of the MLP:

    norms        4·H bytes each (computed in float32), and H numbers more where the norm is trained
    attention    q, k, v and the output: 4·A numbers
    MLP          gate, its activation, up: 3·I numbers (one projection alone: I)
    inputs       of the linear layers: 2·H + A + I numbers; of an adapter in bfloat16 a copy for each of its layers
"""

from dataclasses import dataclass

from builders.settings.kto import TrainSettings
from builders.settings.sft import TuningSettings
from training.costs.hardware import Machine
from training.costs.shapes import Shape
from training.memory import Sizes, Zero, training_parts

HEAD_TOKENS, HEAD_WORDS = 4096, 32768  # of a tile of logits in TRL's fused head
CPU_TILE = 29  # bytes beside each logit of a tile on a CPU, where each operation on it writes a tile of its own
CPU_HEAD_BYTES = (40, 96)  # that these operations move for each logit, forward and backward
# How often what a layer keeps is moved: written and read forward, read backward and its gradient written and read, and
# what is not kept besides, such as the halves of rotary embeddings and sums.
PASSES_FORWARD, PASSES_BACKWARD = 3, 4
DIRECT_LOGITS = 2**24  # below which float32 logits on a CPU are computed at once, as in training/head.py
BUCKET = 5e8  # numbers in a bucket of DeepSpeed's communication
STEP_BYTES = 40  # that clipping and Adam move for each trained parameter


@dataclass(frozen=True)
class Amount:
    """A number with the formula that it comes from, in words and numbers."""

    value: float
    formula: str


@dataclass(frozen=True)
class Step:
    """One forward and backward pass of one process.

    Attributes:
        rows: rows in it.
        tokens: tokens of a row, prompt and completion together, padding included.
        labelled: tokens of a row whose log-probability is needed.
        accumulates: whether an optimizer step has several of them.
        device: `cuda` or `cpu`.
        bf16: whether training computes in bfloat16.
        kl: whether another forward pass without gradient runs beside it.
    """

    rows: int
    tokens: float
    labelled: float
    accumulates: bool
    device: str
    bf16: bool
    kl: bool = False


def width_of(settings: TrainSettings | TuningSettings, zero: Zero, *, bf16: bool) -> int:
    """Bytes of one number of the weights that are held: 4 where every weight is trained without DeepSpeed."""
    return 2 if bf16 and (settings.method != "full" or zero.stage) else 4


def layer_bytes(shape: Shape, sizes: Sizes, settings: TrainSettings | TuningSettings, step: Step, width: int) -> Amount:
    """Bytes that one token of one layer keeps for the backward pass."""
    full = settings.method == "full"
    product = 2 if step.bf16 else 4  # of what matrix products read
    norms = shape.norms * shape.hidden * (4 + (width if full else 0))
    # FlashAttention reads shared keys as they are; elsewhere they are repeated for every head of a group.
    shared = shape.keys if settings.attention == "flash_attention_2" else shape.attention
    attention = (2 * shape.attention + 2 * shared) * product
    mlp = (3 if shape.gated else 1) * shape.inner * product
    distinct = 2 * shape.hidden + shape.attention + shape.inner
    inputs: float = distinct * product
    if not full:
        own: float = sizes.inputs / shape.depth
        ranks = settings.lora_rank * sizes.adapted / shape.depth  # the adapters' first products
        inputs = ((own if step.bf16 else min(own, distinct)) + ranks) * product
    eager = shape.capped or settings.attention == "eager"
    scores = shape.heads * step.tokens * (4 + product) * (2 if shape.capped else 1) if eager else 0.0
    total = norms + attention + mlp + inputs + scores
    return Amount(
        total,
        f"norms {norms:,.0f} + attention {attention:,.0f} + MLP {mlp:,.0f} + inputs of linear layers {inputs:,.0f}"
        + (f" + scores {scores:,.0f}" if eager else ""),
    )


def head_bytes(shape: Shape, settings: TrainSettings | TuningSettings, step: Step) -> Amount:
    """Bytes of the head's buffers in the backward pass."""
    if is_direct(shape, step):
        count = step.rows * step.labelled
        return Amount(
            3 * 4 * count * shape.vocabulary,
            f"float32 logits, their log-softmax and its gradient: 3 × 4 × {count:,.0f} tokens × {shape.vocabulary:,}"
        )  # fmt: skip
    on_cpu = step.device == "cpu"
    count = step.rows * (step.tokens if on_cpu else step.labelled)
    product = 2 if step.bf16 else 4
    tile = min(count, HEAD_TOKENS) * min(shape.vocabulary, HEAD_WORDS) * (product + (CPU_TILE if on_cpu else 0))
    hidden = count * shape.hidden * 8
    weight = shape.vocabulary * shape.hidden * 4 if settings.method == "full" else 0
    return Amount(
        tile + hidden + weight,
        f"a tile of logits {tile / 1e6:,.0f} MB + states and gradient 8 × {count:,.0f} tokens × {shape.hidden:,}"
        + (f" + float32 gradient 4 × {shape.vocabulary:,} × {shape.hidden:,}" if weight else ""),
    )


def is_direct(shape: Shape, step: Step) -> bool:
    """Whether all logits are computed at once (`training.head`)."""
    few = step.rows * step.tokens * shape.vocabulary <= DIRECT_LOGITS
    return few and step.device == "cpu" and not step.bf16 and not shape.capped


def training_memory(
    shape: Shape, sizes: Sizes, settings: TrainSettings | TuningSettings, zero: Zero, processes: int, step: Step
) -> dict[str, Amount]:
    """Bytes of one process on its device, by part; `peak` is what it needs at the worst moment.

    The gradients of a step's only pass come into being while the activations go, so both are not counted together.

    Args:
        shape: the model that is trained.
        sizes: its numbers of parameters, with the adapter's.
        settings: method, attention, gradient checkpointing.
        zero: what DeepSpeed shards.
        processes: processes over which it does.
        step: one pass of one process.
    """
    parts = {
        name: part.device for name, part in training_parts(sizes, settings, zero, processes, bf16=step.bf16).items()
    }
    width = width_of(settings, zero, bf16=step.bf16)
    trained = sizes.total if settings.method == "full" else sizes.adapter
    count = step.rows * step.tokens
    layer = layer_bytes(shape, sizes, settings, step, width)
    ends = count * shape.hidden * (8 + 2 * width)  # the embedding's output, the last norm and its output
    if settings.gradient_checkpointing:
        kept = shape.depth * count * shape.hidden * width + count * layer.value + ends
        said = (
            f"each layer's input, {shape.depth} × {count:,.0f} tokens × {shape.hidden:,} × {width}, and one layer's "
            f"{layer.value:,.0f} bytes a token ({layer.formula})"
        )
    else:
        kept = shape.depth * count * layer.value + ends
        said = f"{shape.depth} layers × {count:,.0f} tokens × {layer.value:,.0f} bytes ({layer.formula})"
    moving = count * (2 * shape.hidden + 3 * shape.inner) * (2 if step.bf16 else 4)  # gradients within one layer
    head = head_bytes(shape, settings, step)
    copies = 2 * shape.multiplied if step.bf16 and width == 4 else 0
    working = _stepping(settings, zero, trained, step.device, shape)
    buckets = 2 * min(BUCKET, trained) * (2 if step.bf16 else 4) if zero.stage >= 2 else 0.0
    fixed = parts["frozen weights"] + parts["trained weights"] + parts["optimizer"] + copies + buckets
    before = parts["gradients"] if step.accumulates or zero.stage else 0.0
    passing = before + kept + max(head.value, moving)
    peak = fixed + max(passing, parts["gradients"] + moving, parts["gradients"] + working)
    found = {
        "frozen weights": Amount(parts["frozen weights"], _frozen_words(sizes, settings, width, zero, processes)),
        "trained weights": Amount(parts["trained weights"], _of_trained(trained, parts["trained weights"])),
        "gradients": Amount(parts["gradients"], _of_trained(trained, parts["gradients"])),
        "optimizer": Amount(
            parts["optimizer"], f"{_of_trained(trained, parts['optimizer'])}, {settings.optimizer}"
        ),
        "activations": Amount(kept, said),
        "head": head,
        "copies in bfloat16": Amount(copies, "2 bytes × what a token is multiplied with, under autocast"),
        "communication": Amount(buckets, "two buckets of at most 5e8 numbers"),
        "while stepping": Amount(working, "what the optimizer holds beside its states"),
    }  # fmt: skip
    return {name: part for name, part in found.items() if part.value} | {
        "peak": Amount(peak, "weights + optimizer + the larger of (activations + head) and (gradients + stepping)")
    }


def _of_trained(trained: float, value: float) -> str:
    return f"{value / trained if trained else 0:,.3g} bytes × {trained:,} trained parameters"


def _frozen_words(
    sizes: Sizes, settings: TrainSettings | TuningSettings, width: int, zero: Zero, processes: int
) -> str:
    shared = f", over {processes} processes" if zero.stage == 3 else ""
    if settings.method == "qlora":
        return f"{sizes.linear:,} in 4 bits (0.516 bytes) + {sizes.total - sizes.linear:,} × {width} bytes{shared}"
    return f"{sizes.total:,} × {width} bytes{shared}"


def _stepping(settings: TrainSettings | TuningSettings, zero: Zero, trained: int, device: str, shape: Shape) -> float:
    """Bytes that the optimizer holds for a moment: on a GPU the square roots of all states, on a CPU of one tensor."""
    if settings.optimizer != "adamw_torch" or zero.optimizer != "none":
        return 0.0
    largest = shape.vocabulary * shape.hidden if settings.method == "full" else 0
    return 4.0 * (trained if device == "cuda" else largest)


def forward_flops(shape: Shape, tokens: float, *, head: float | None = None, whole: bool = False) -> float:
    """FLOP of one forward pass over a row: 2 for each parameter that a token is multiplied with, and the attention.

    Attention multiplies each token's query with the keys before it, and the scores with the values: 4·A·T/2 a layer.

    Args:
        shape: the model.
        tokens: tokens T of the row.
        head: tokens whose logits are computed; None for all.
        whole: whether the keys after a token are multiplied too and masked, as on a CPU where rows are padded, and in
            an encoder, which looks both ways.
    """
    logits = tokens if head is None else head
    products = 2 * tokens * shape.linear + 2 * logits * shape.vocabulary * shape.hidden
    return products + (4 if whole else 2) * shape.depth * shape.attention * tokens**2


@dataclass(frozen=True)
class Work:
    """What a row costs in training.

    Attributes:
        flops: FLOP of matrix products.
        moved: bytes of activations that are written and read.
        formula: in words and numbers.
    """

    flops: float
    moved: float
    formula: str


def row_work(shape: Shape, sizes: Sizes, settings: TrainSettings | TuningSettings, step: Step, zero: Zero) -> Work:
    """FLOP and moved bytes of one row's forward and backward pass, with the passes that KTO adds to each step.

    A backward pass costs twice a forward pass; under an adapter once, since frozen weights have no gradient. The head
    computes its logits again in the backward pass, unless they are held.
    """
    labelled = step.labelled if step.device == "cuda" or is_direct(shape, step) else step.tokens
    layers = forward_flops(shape, step.tokens, head=0, whole=step.device == "cpu" and step.rows > 1)
    attention = layers - 2 * step.tokens * shape.linear
    head = 2 * labelled * shape.vocabulary * shape.hidden
    full = settings.method == "full"
    adapter = 0 if full else 2 * step.tokens * sizes.adapter
    again = 1 if settings.gradient_checkpointing else 0
    passes = (3 if full else 2) + again
    heads = (3 if full else 2) + (0 if is_direct(shape, step) else 1)
    extra = 1 if step.kl else 0
    # Attention has no weights: its backward pass is five products where the forward pass has two, adapter or not.
    scores = (2.5 - (2 if full else 1)) * attention
    flops = (passes + extra) * layers + scores + (heads + extra) * head + (3 + again + extra) * adapter
    width = width_of(settings, zero, bf16=step.bf16)
    kept = shape.depth * step.tokens * layer_bytes(shape, sizes, settings, step, width).value
    moved = ((1 + again + extra) * PASSES_FORWARD + PASSES_BACKWARD) * kept
    if not full:  # an adapter reads its layer's input and output, adds to the output, and does so for the gradients
        inputs = sizes.inputs
        outputs = sizes.adapter / settings.lora_rank - inputs
        both = (1 + again + extra) * (inputs + 4 * outputs) + 3 * inputs + 2 * outputs
        moved += step.tokens * both * (2 if step.bf16 else 4)
    if step.device == "cpu" and not is_direct(shape, step):
        ahead, back = CPU_HEAD_BYTES
        moved += labelled * shape.vocabulary * ((1 + extra) * ahead + back)
    return Work(
        flops,
        moved,
        f"{passes} × forward of the layers ({layers:,.3g} FLOP) + attention ({scores:,.3g}) "
        f"+ {heads} × of the head ({head:,.3g})"
        + (f" + {3 + again} × of the adapter ({adapter:,.3g})" if adapter else "")
        + (" + 1 × forward for the KL term" if extra else ""),
    )


def step_seconds(
    work: Work, rows: float, trained: float, machine: Machine, width: int, *, utilisation: float, bandwidth_share: float
) -> float:
    """Seconds of one optimizer step of one process.

    Args:
        work: what one row costs.
        rows: rows of this process.
        trained: parameters that the optimizer steps.
        machine: where it runs.
        width: bytes of a number in matrix products.
        utilisation: share of the stated FLOP/s.
        bandwidth_share: share of the stated bandwidth.
    """
    moved = rows * work.moved + STEP_BYTES * trained
    return rows * work.flops / (machine.flops(width) * utilisation) + moved / (machine.bandwidth * bandwidth_share)
