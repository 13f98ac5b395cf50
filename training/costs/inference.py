"""Memory and time of models that only run forward: sampling, perplexity, relevance."""

from dataclasses import dataclass

from builders.settings.engines import LocalEngineSettings, VllmEngineSettings
from training.costs.hardware import GIB, Machine
from training.costs.shapes import Shape
from training.costs.training import Amount, forward_flops
from training.memory import ENCODERS

HEAD_ROWS = 256  # states that pass a perplexity model's head together, as in scorers/perplexity.py
PIECE, KV_ON_CPU = 1024, GIB  # tokens of a window that vLLM reads in a step; its keys and values on a CPU
ENCODED = 16_384  # padded tokens of a batch of BGE-M3, as in scorers/relevance.py
LOSS_BYTES = 24  # that the cross-entropy moves for each logit: written, read, its log-softmax written and read
CHOICE_BYTES = 100  # that drawing a token moves for each word: logits, probabilities in float64, their sums
LAYER_SECONDS = 3e-4  # that transformers' Python needs for one layer of one decoding step; vLLM replays a graph


def weight_bytes(shape: Shape, width: int) -> Amount:
    """Bytes of a model's weights."""
    return Amount(shape.total * width, f"{shape.total:,} parameters × {width} bytes")


def passing_bytes(shape: Shape, tokens: float, width: int) -> float:
    """Bytes of what a forward pass without gradient holds at once: states, and the MLP of one layer."""
    return tokens * (3 * shape.hidden + (3 if shape.gated else 2) * shape.inner) * width


def cache_bytes(shape: Shape, width: int) -> Amount:
    """Bytes of the keys and values of one token."""
    return Amount(
        2 * shape.depth * shape.keys * width,
        f"2 × {shape.depth} layers × {shape.key_heads} key heads × {shape.head_dim} × {width} bytes a token",
    )


@dataclass(frozen=True)
class Sampling:
    """How a policy samples.

    Attributes:
        prompt: tokens of a prompt.
        written: mean tokens that it writes.
        longest: most tokens that it writes.
        window: tokens of the context window.
        rows: rows to sample.
        distinct: prompts among them that differ, each of which is read once.
    """

    prompt: float
    written: float
    longest: int
    window: int
    rows: int
    distinct: int


def sampling_memory(
    shape: Shape, engine: LocalEngineSettings, use: Sampling, machine: Machine, width: int
) -> dict[str, Amount]:
    """Bytes on one device while a policy samples, by part; `peak` is what it needs, for vLLM at least.

    vLLM takes its share of the memory whatever it needs, and refuses a window whose keys and values do not fit.
    """
    gpus = parallel(engine)
    weights, token = weight_bytes(shape, width), cache_bytes(shape, width)
    logits = min(engine.batch_size, use.rows) * shape.vocabulary * (24 if machine.device == "cpu" else 16)
    found = {"weights": Amount(weights.value / gpus, f"{weights.formula} over {gpus} devices")}
    if isinstance(engine, VllmEngineSettings):
        budget = engine.memory_share * machine.memory - machine.reserve
        step = passing_bytes(shape, 8192, width) / gpus
        room = max(0.0, budget - weights.value / gpus - step)
        slots = room * gpus / (token.value * use.window)
        said = f"what is left of {engine.memory_share:.0%}: {slots:,.1f} windows of {use.window:,} tokens"
        found["KV cache"] = Amount(room, f"{said} at {token.value / 1e3:,.0f} kB ({token.formula})")
        found["a step"] = Amount(step, "8,192 prompt tokens through one layer")
        least = weights.value / gpus + step + token.value * use.window / gpus
        return found | {"peak": Amount(least + machine.reserve, "weights + a step + one whole window + CUDA")}
    rows = min(engine.batch_size, use.rows)
    columns = use.prompt + use.longest
    cache = Amount(rows * columns * token.value, f"{rows} rows × {columns:,.0f} tokens × {token.formula}")
    prefill = passing_bytes(shape, min(16_384, min(rows, use.distinct) * use.prompt), width)
    found["KV cache"], found["prefill"] = cache, Amount(prefill, "prompt tokens through one layer")
    found["logits"] = Amount(logits, f"{rows} rows × {shape.vocabulary:,}: logits, probabilities, their order")
    return found | {
        "peak": Amount(sum(part.value for part in found.values()) + machine.reserve, "all of these together")
    }


def parallel(engine: LocalEngineSettings) -> int:
    """GPUs that share one model in sampling."""
    return engine.tensor_parallel * engine.pipeline_parallel if isinstance(engine, VllmEngineSettings) else 1


def slots_of(shape: Shape, engine: LocalEngineSettings, use: Sampling, machine: Machine, width: int) -> float:
    """Rows that are decoded at once: the engine's, as far as their keys and values fit."""
    rows = float(min(engine.batch_size, use.rows))
    if not isinstance(engine, VllmEngineSettings):
        return rows
    room = sampling_memory(shape, engine, use, machine, width)["KV cache"].value * parallel(engine)
    held = cache_bytes(shape, width).value * (use.prompt + use.written / 2)
    return max(1.0, min(rows, room / held))


def decode_seconds(
    shape: Shape, engine: LocalEngineSettings, use: Sampling, machine: Machine, width: int,
    *, utilisation: float, bandwidth_share: float,
) -> Amount:  # fmt: skip
    """Seconds to write all rows: the prompts once, then steps that each read all weights and the rows' keys and values.

    A group of the engine transformers lasts as long as its longest row; its places are filled up as rows end.
    """
    gpus = parallel(engine)
    rate, speed = gpus * machine.flops(width) * utilisation, gpus * machine.bandwidth * bandwidth_share
    slots = slots_of(shape, engine, use, machine, width)
    steps = use.rows * use.written / slots
    prompts = use.distinct * forward_flops(shape, use.prompt, head=1) / rate
    context = use.prompt + use.written / 2
    weights = (shape.total if not shape.tied else shape.layers + shape.embedding) * width
    rest = slots * (context * cache_bytes(shape, width).value + shape.vocabulary * CHOICE_BYTES)
    arithmetic = slots * (2 * shape.multiplied + 4 * shape.depth * shape.attention * context)
    overhead = 0.0 if isinstance(engine, VllmEngineSettings) else shape.depth * LAYER_SECONDS
    # A product lasts as long as its reading or its computing does, the longer of the two. On a GPU the rest goes on
    # meanwhile, on a CPU after it.
    on_cpu = machine.device == "cpu"
    each = max((weights if on_cpu else weights + rest) / speed, arithmetic / rate)
    each += overhead + (rest / speed if on_cpu else 0.0)
    return Amount(
        prompts + steps * each,
        f"{use.rows:,} rows × {use.written:,.0f} tokens in {steps:,.0f} steps of {slots:,.0f} rows: "
        f"{each * 1e3:,.2f} ms (read {(weights + rest) / 1e9:,.2f} GB, {arithmetic:,.3g} FLOP) "
        f"+ prompts {prompts:,.0f} s",
    )


def perplexity_memory(shape: Shape, tokens: int, width: int) -> dict[str, Amount]:
    """Bytes of a perplexity model while it reads a batch, by part."""
    head = HEAD_ROWS * shape.vocabulary * (width + 8)
    found = {
        "weights": weight_bytes(shape, width),
        "a batch": Amount(
            passing_bytes(shape, tokens, width) + tokens * shape.hidden * width,
            f"{tokens:,} tokens × (4 × {shape.hidden:,} + 3 × {shape.inner:,}) × {width} bytes",
        ),
        "logits": Amount(head, f"{HEAD_ROWS} rows × {shape.vocabulary:,} × {width + 8} bytes"),
    }
    return found | {"peak": Amount(found["weights"].value + max(found["a batch"].value, head), "weights + the larger")}


def vllm_perplexity_memory(shape: Shape, share: float, machine: Machine, width: int) -> dict[str, Amount]:
    """Bytes of a perplexity model that vLLM holds: on a GPU its share of the memory, whatever it needs of it."""
    weights = weight_bytes(shape, width)
    on_gpu = machine.device == "cuda"
    held = Amount(share * machine.memory, f"{share:.0%} of the GPU (score.memory_share)") if on_gpu else Amount(
        weights.value + KV_ON_CPU, "weights + 1 GiB of keys and values"
    )  # fmt: skip
    logits = Amount(
        2 * 4 * PIECE * shape.vocabulary, f"{PIECE:,} tokens × {shape.vocabulary:,} × 4 bytes, and their logarithms"
    )
    return {"weights": weights, "held": held, "logits": logits, "peak": Amount(held.value + logits.value, "both")}


def relevance_memory(shape: Shape, tokens: int, texts: int, width: int) -> dict[str, Amount]:
    """Bytes of BGE-M3 while it reads a batch of texts, by part."""
    count = min(max(ENCODED, tokens), texts * tokens)
    found = {
        "weights": weight_bytes(shape, width),
        "a batch": Amount(
            passing_bytes(shape, count, width) + 3 * count * shape.hidden * 4,
            f"{count:,} tokens × ((3 × {shape.hidden:,} + 2 × {shape.inner:,}) × {width} "
            f"+ vectors 12 × {shape.hidden:,})",
        ),
    }
    return found | {"peak": Amount(sum(part.value for part in found.values()), "both together")}


def reading_seconds(
    shape: Shape, texts: float, tokens: float, machine: Machine, width: int,
    *, utilisation: float, bandwidth_share: float,
) -> Amount:  # fmt: skip
    """Seconds to run texts through a model once; a text beyond its window is read in windows that overlap by half."""
    window = min(tokens, shape.window or tokens)
    passes = 1.0 if tokens <= window else max(1.0, 2 * tokens / window - 1)
    encoder = shape.config.model_type in ENCODERS
    one = forward_flops(shape, window, head=0 if encoder else None, whole=encoder)
    flops = texts * passes * one
    moved = (
        texts * passes * window * shape.depth * (8 * shape.hidden + 4 * shape.attention + 4 * shape.inner) * width * 2
    )
    moved += 0.0 if encoder else texts * passes * window * shape.vocabulary * LOSS_BYTES
    seconds = flops / (machine.flops(width) * utilisation) + moved / (machine.bandwidth * bandwidth_share)
    return Amount(
        seconds, f"{texts:,.0f} texts × {passes:.3g} windows of {window:,.0f} tokens × {one:,.3g} FLOP forward"
    )  # fmt: skip


def gib(value: float) -> str:
    """Return bytes as GiB with a digit that counts."""
    return f"{value / GIB:,.3g} GiB"
