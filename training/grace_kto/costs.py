"""What a run of GRACE-KTO will cost, counted from its configuration before anything is built; see `training.costs`.

Memory is that of the longest row, hours are those of the mean row.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from builders.core.costs import Cost, CostPlan, Unit
from builders.grace_kto.settings import GraceKTOSettings
from builders.settings.engines import LocalEngineSettings, OpenAIEngineSettings
from builders.store.store import Store
from scorers.criteria import COUNT
from training.costs.fitting import require_fit, sampling_fault, scoring_fault, share_fault
from training.costs.hardware import Machine, machine_of
from training.costs.inference import (
    Sampling,
    decode_seconds,
    parallel,
    perplexity_memory,
    reading_seconds,
    relevance_memory,
    sampling_memory,
    vllm_perplexity_memory,
)
from training.costs.shapes import SHIPPED
from training.costs.training import Amount
from training.costs.trainings import Rows, Training
from training.grace_kto.planned import SYSTEM_TOKENS, Run

SUMMARY_SHARE = 0.1  # of a response that is its summary
RUBRIC_TOKENS = 250  # of the wish for criteria or for a rating, without what is put into it
CRITERION_TOKENS = 150  # of a criterion with its five bands
RATING_TOKENS = 80  # of a score and its reason
PLAN_SHARE = 0.2  # of a document that a teacher's summary and outline of it have
TEXT_BYTES = 4.0  # of one token of text
COMPRESSED = 0.4  # size of text in Parquet with zstd
ROW_BYTES = 200  # of a row's numbers and ids
HOUR = 3600.0


def plan_costs(config: GraceKTOSettings) -> CostPlan:
    """Count what a run will cost.

    Args:
        config: the configuration; its section `plan` names the machine and the assumptions.

    Raises:
        UserError: a model's shape is not known here, or a part cannot fit; the message says what would.
    """
    machine = machine_of(config.plan, config.threads, origin="plan.gpu")
    run = Run(config, machine, Store(Path(config.store)))
    memory = list(_memory(run))
    require_fit(problem for _, _, problem in memory)
    costs = [*_parameters(run), *(cost for _, lines, _ in memory for cost in lines), *_tokens(run)]
    return CostPlan(
        config.name,
        f"{machine.count} × {machine.name} ({machine.origin}), {machine.memory / 2**30:,.0f} GiB, "
        f"{machine.half / 1e12:,.3g} TFLOP/s in 16 bits, {machine.single / 1e12:,.3g} in float32, "
        f"{machine.bandwidth / 1e12:,.3g} TB/s",
        _assumptions(run),
        [*costs, *_disk(run), *_hours(run)],
    )


def _assumptions(run: Run) -> list[str]:
    """What the numbers rest on, a sentence each."""
    plan = run.config.plan
    shipped = [shape.name for shape in run.shapes if shape.origin == SHIPPED]
    found = [f"The shapes of {', '.join(shipped)} are those of {SHIPPED}."] if shipped else []
    return [
        *found,
        f"A response has {run.written.value:,.0f} tokens on average ({run.written.formula}); memory is for the "
        "longest.",
        f"A query has {plan.query_tokens} tokens (plan.query_tokens), a prompt {run.prompt:,.0f}.",
        f"Matrix products reach {plan.utilisation:.0%} of the stated FLOP/s (plan.utilisation), memory "
        f"{plan.bandwidth_share:.0%} of the stated bandwidth (plan.bandwidth_share).",
        f"There are {run.seeds.value:,.0f} seeds ({run.seeds.formula}).",
        f"Trainings run in {run.config.nproc} process{'es' if run.config.nproc > 1 else ''} (nproc), shards are built "
        f"by {_workers(run)} (executor.workers).",
        "Hours leave out loading, downloads and uploads, and the time of servers.",
    ]


# ---- parameters ------------------------------------------------------------------------------------------------------


def _parameters(run: Run) -> Iterator[Cost]:
    """The parameters of each model by part, and those of the adapters."""
    for shape in run.shapes:
        section = f"parameters: {shape.name}"
        yield Cost(section, "embedding", shape.embedding, "parameters", f"{shape.vocabulary:,} × {shape.hidden:,}"
                   + (", the head too" if shape.tied and shape.gated else ""))  # fmt: skip
        each = shape.layers // shape.depth
        yield Cost(section, "layers", shape.layers, "parameters", f"{shape.depth} × {each:,}")
        if shape.head:
            yield Cost(section, "head", shape.head, "parameters", f"{shape.vocabulary:,} × {shape.hidden:,}")
        yield Cost(section, "all", shape.total, "parameters", f"with {shape.rest:,} others; from {shape.origin}")
    for training in _trainings(run):
        if training.sizes.adapter:
            yield Cost(
                f"parameters: {run.shape('policy').name}", f"adapter of {training.section}", training.sizes.adapter,
                "parameters", f"rank {training.settings.lora_rank} × (inputs + outputs) of its layers",
            )  # fmt: skip


# ---- memory ----------------------------------------------------------------------------------------------------------


def _trainings(run: Run) -> list[Training]:
    """The trainings of a run: SFT where the first policy is its result, and weighted KTO; none beside a server."""
    if run.serves("policy"):
        return []
    config, shape = run.config, run.shape("policy")
    processes = config.nproc
    longest, mean = run.longest, min(run.prompt + run.written.value, run.longest)
    sft = config.sft
    documents = run.seeds.value * sft.epochs if sft.steps is None else float(sft.steps * sft.batch_size)
    labelled = (longest - run.prompt) / longest
    found = []
    if config.models.policy == "sft":
        limit = sft.max_length or longest
        rows = Rows(documents, min(mean, limit), min(longest, limit), 1.0 if sft.prompt_loss_weight else labelled)
        found.append(Training.of("sft", sft, shape, run.machine, processes, rows, config.plan, kl=False))
    limit = config.train.max_length or longest
    rows = Rows(float(run.rows), min(mean, limit), min(longest, limit), labelled)
    kl = config.train.kl == "mismatched"
    return [*found, Training.of("train", config.train, shape, run.machine, processes, rows, config.plan, kl=kl)]


def _memory(run: Run) -> Iterator[tuple[str, list[Cost], str | None]]:
    """Section, lines and fault (None where it fits) of each part of the run that needs memory of a device."""
    for training in _trainings(run):
        yield training.section, _lines(f"memory: {training.section}", training.memory()), training.fault()
    # What a role writes in several stages takes most memory in the last of them.
    for role, writing in {writing.role: writing for writing in _writings(run)}.items():
        parts, fault = _sampling_memory(run, role, writing.use)
        yield f"engines.{role}", _lines(f"memory: {'sampling' if role == 'policy' else writing.stage}", parts), fault
    for role, parts, fault in _scoring_memory(run):
        yield role, _lines(f"memory: {role}", parts), fault


def _lines(section: str, parts: dict[str, Amount], unit: Unit = "bytes") -> list[Cost]:
    return [Cost(section, name, part.value, unit, part.formula) for name, part in parts.items()]


def _engine(run: Run, role: str) -> tuple[LocalEngineSettings, Machine, int]:
    """A role's engine, where it runs, and the bytes of a number of its weights."""
    engine: LocalEngineSettings | OpenAIEngineSettings = getattr(run.config.engines, role)
    if isinstance(engine, OpenAIEngineSettings):
        raise TypeError("a server has no engine here")
    machine = run.local(engine.device)
    return engine, machine, _width(engine.dtype, machine)


def _width(dtype: str, machine: Machine) -> int:
    """Bytes of a number of a dtype setting on a machine; auto is bfloat16 on a GPU, float32 on a CPU."""
    return 4 if dtype == "float32" or (dtype == "auto" and machine.device == "cpu") else 2


@dataclass(frozen=True)
class Writing:
    """What a local model writes in one stage.

    Attributes:
        stage: the stage.
        role: the model's.
        times: how often the stage is built.
        use: prompts and replies of one time.
    """

    stage: str
    role: str
    times: int
    use: Sampling


def _writings(run: Run) -> Iterator[Writing]:
    """The stages in which local models write."""
    config, rounds = run.config, run.config.loop.rounds
    if run.taught and not run.serves("teacher"):
        (ask, reply), documents = _formatting(run), round(run.seeds.value)
        limit = config.format.max_new_tokens
        yield Writing(
            "format", "teacher", 1, Sampling(ask, reply, limit, _window(run, "teacher"), documents, documents)
        )
    if not run.serves("policy"):
        (ask, reply), prompts, window = _asking(run), _prompts(run), _window(run, "policy")
        limit = config.generate.max_new_tokens
        yield Writing("generate", "policy", rounds, Sampling(ask, reply, limit, window, prompts, prompts))
        limit, queries = config.sample.max_new_tokens, config.generate.queries
        written = min(run.written.value, limit)
        yield Writing("sample", "policy", rounds, Sampling(run.prompt, written, limit, window, run.rows, queries))
    limits = {"criteria": config.criteria.max_new_tokens, "judge": config.rate.max_new_tokens}
    for role, (stage, prompts, ask, reply) in _rating(run).items():
        if not run.serves(role):
            use = Sampling(ask, reply, limits[role], _window(run, role), prompts, prompts)
            yield Writing(stage, role, rounds, use)


def _window(run: Run, role: str) -> int:
    """Tokens of the context window that a role's engine has."""
    engine, _, _ = _engine(run, role)
    return engine.context.window or run.shape(role).window or int(run.longest)


def _sampling_memory(run: Run, role: str, use: Sampling) -> tuple[dict[str, Amount], str | None]:
    """Bytes of sampling by part, and what is wrong with them."""
    engine, machine, width = _engine(run, role)
    shape = run.shape(role)
    fault = sampling_fault(role, shape, engine, use, machine, width)
    return sampling_memory(shape, engine, use, machine, width), fault


def _scoring_memory(run: Run) -> Iterator[tuple[str, dict[str, Amount], str | None]]:
    """Bytes of each scorer by part, and of all together, since they are held at the same time."""
    score = run.config.score
    machine = run.local(score.device)
    width = _width(score.dtype, machine)
    served = run.serves("policy")
    longest = score.max_length if served else min(int(run.longest), run.config.sample.max_new_tokens)
    found = {}
    for role in ("general", "domain"):
        shape = run.shape(role)
        if score.engine == "vllm":
            found[role] = vllm_perplexity_memory(shape, score.memory_share, machine, width)
            yield role, {}, share_fault(role, shape.name, found[role], score.memory_share, machine)
            continue
        window = score.context.window or shape.window or longest
        found[role] = perplexity_memory(shape, max(score.tokens_per_batch, min(longest, window)), width)
    # FlagEmbedding computes in float16 or float32 alone.
    half = 2 if score.dtype == "float16" else 4
    texts = min(score.texts_per_batch, run.rows)
    found["relevance"] = relevance_memory(run.shape("relevance"), min(score.max_length, longest), texts, half)
    held = {role: parts.get("held", parts["weights"]).value for role, parts in found.items()}
    busiest = max(parts["peak"].value - held[role] for role, parts in found.items())
    said = "all weights" if score.engine == "transformers" else "vLLM's shares + the weights of BGE-M3"
    whole = Amount(sum(held.values()) + busiest + machine.reserve, f"{said} + the batch of one model at a time + CUDA")
    for role, parts in found.items():
        yield f"score, {role}", {name: part for name, part in parts.items() if name != "peak"}, None
    yield "score", {"peak": whole}, scoring_fault(whole.value, score.tokens_per_batch, score.dtype, machine)


# ---- tokens and bytes ------------------------------------------------------------------------------------------------


def _prompts(run: Run) -> int:
    """Prompts that ask for queries in one round, if every reply is used."""
    return -(-run.config.generate.queries // run.config.generate.per_prompt)


def _asking(run: Run) -> tuple[float, float]:
    """Tokens of a prompt that asks for queries, and of its reply."""
    config = run.config
    per, wanted = config.plan.query_tokens, config.generate
    return SYSTEM_TOKENS + per * wanted.examples, min(wanted.max_new_tokens, per * wanted.per_prompt)


def _formatting(run: Run) -> tuple[float, float]:
    """Tokens of a prompt that shows a teacher a document, and of its reply: one a document, which fits."""
    document = run.written.value  # as long as a response
    prompt = SYSTEM_TOKENS + run.config.plan.query_tokens + document
    return prompt, min(run.config.format.max_new_tokens, PLAN_SHARE * document)


def _rating(run: Run) -> dict[str, tuple[str, int, float, float]]:
    """By role, the stage in which it writes criteria or rates, prompts of a round, and tokens of a prompt and a reply.

    Every query and every response counts, and no reply that has to be asked for again.
    """
    if not run.raters:
        return {}
    config = run.config
    query, ratings = config.plan.query_tokens, run.rows * COUNT * config.rate.repeats
    shown = RUBRIC_TOKENS + query + run.written.value + CRITERION_TOKENS
    reply = min(config.criteria.max_new_tokens, COUNT * CRITERION_TOKENS)
    return {
        "criteria": ("criteria", config.generate.queries, RUBRIC_TOKENS + query, reply),
        "judge": ("rate", ratings, shown, min(config.rate.max_new_tokens, RATING_TOKENS)),
    }


def _tokens(run: Run) -> list[Cost]:
    """Tokens of all rounds."""
    rounds, (ask, reply) = run.config.loop.rounds, _asking(run)
    written = run.written.value
    prompts = rounds * _prompts(run)
    counts = []
    if run.taught:
        (shown, plan), documents = _formatting(run), run.seeds.value
        counts = [
            ("documents read by the teacher", documents * shown, f"{documents:,.0f} documents × {shown:,.0f}"),
            ("summaries and outlines", documents * plan, f"{documents:,.0f} replies × {plan:,.0f}"),
        ]
    counts += [
        ("queries read", prompts * ask, f"{rounds} rounds × {_prompts(run):,} prompts × {ask:,.0f}"),
        ("queries written", prompts * reply, f"{prompts:,} replies × {reply:,.0f}"),
        ("prompts", rounds * run.rows * run.prompt, f"{rounds} rounds × {run.rows:,} rows × {run.prompt:,.0f}"),
        ("responses", rounds * run.rows * written, f"{rounds} rounds × {run.rows:,} rows × {written:,.0f}"),
    ]
    for stage, times, shown, said in _rating(run).values():
        what, each = ("criteria", "queries") if stage == "criteria" else ("ratings", "ratings")
        counts += [
            (f"read for {what}", rounds * times * shown, f"{rounds} rounds × {times:,} {each} × {shown:,.0f}"),
            (f"{what} written", rounds * times * said, f"{rounds} rounds × {times:,} {each} × {said:,.0f}"),
        ]
    return [Cost("tokens", part, value, "tokens", formula) for part, value, formula in counts]


def _disk(run: Run) -> list[Cost]:
    """Bytes on disk of all rounds, what of it a push uploads, and what is downloaded before."""
    config = run.config
    rounds, text = config.loop.rounds, TEXT_BYTES * COMPRESSED
    said = f"{TEXT_BYTES:g} bytes a token, compressed to {COMPRESSED:.0%}"
    query, response = text * config.plan.query_tokens, text * run.written.value
    sizes = {
        "seed": (run.seeds.value * (query + response + ROW_BYTES), "query and reference"),
        "queries": (rounds * config.generate.queries * (query + ROW_BYTES), "query"),
        "groups": (rounds * run.rows * (query + 2 * response + ROW_BYTES), "response, and its parts once more"),
        "scores": (rounds * run.rows * (query + 2 * response + 2 * ROW_BYTES), "the same, and 13 numbers"),
        "weights": (rounds * run.rows * (2 * query + 3 * response + 3 * ROW_BYTES), "the same, prompt and completion"),
    }
    for stage, times, _, reply in _rating(run).values():
        row = text * reply + ROW_BYTES + (query if stage == "criteria" else 0)
        sizes[stage if stage == "criteria" else "ratings"] = (rounds * times * row, "text of a reply")
    found = [Cost("disk", name, size, "bytes", f"{what}: {said}") for name, (size, what) in sizes.items()]
    states = 0.0
    for training in _trainings(run):
        times = rounds if training.section == "train" else 1
        kept = times * training.saved
        what = f"{times} × {training.saved_words}"
        found.append(Cost("disk", "policies" if training.section == "train" else "sft model", kept, "bytes", what))
        states += times * training.state
    uploaded = sum(cost.value for cost in found)
    if states:
        found.append(Cost("disk", "optimizer's states", states, "bytes", "8 bytes × trained parameters, every round"))
    ours = [shape for shape in run.shapes if not shape.name.startswith("world:")]
    loaded = sum(shape.total * shape.stored for shape in ours)
    return [
        *found,
        Cost("disk", "uploaded by a push", uploaded, "bytes", "all of these without the optimizer's states"),
        *([Cost("disk", "downloaded", loaded, "bytes", ", ".join(shape.name for shape in ours))] if ours else []),
    ]


# ---- hours -----------------------------------------------------------------------------------------------------------


def _hours(run: Run) -> list[Cost]:
    """Hours of each part over all rounds, and GPU-hours: a node is paid for whole, also while one GPU works."""
    rounds = run.config.loop.rounds
    stages = [("sft", 1, t.seconds()) for t in _trainings(run) if t.section == "sft"]
    written = [(writing.stage, writing.times, _writing(run, writing)) for writing in _writings(run)]
    stages = [*(found for found in written if found[0] == "format"), *stages]
    stages += [found for found in written if found[0] != "format"]
    stages += [("score", rounds, _reading(run))]
    stages += [("train", rounds, t.seconds()) for t in _trainings(run) if t.section == "train"]
    found = [
        Cost("hours", name, times * seconds.value / HOUR, "hours",
             f"{times} × {seconds.value / HOUR:,.3g} h: {seconds.formula}")
        for name, times, seconds in stages
    ]  # fmt: skip
    hours = sum(cost.value for cost in found)
    found.append(Cost("hours", "all", hours, "hours", "one part after the other"))
    if run.machine.device == "cuda":
        count = run.machine.count
        found.append(Cost("hours", "GPU-hours", hours * count, "GPU-hours", f"hours × {count} GPUs"))
    return found


def _rates(run: Run) -> dict[str, float]:
    return {"utilisation": run.config.plan.utilisation, "bandwidth_share": run.config.plan.bandwidth_share}


def _workers(run: Run, gpus: int = 1) -> int:
    """Workers that build shards at the same time, each on GPUs of its own, or all on the one CPU."""
    workers = run.config.executor.workers or 1
    return max(1, min(workers, run.machine.count // gpus)) if run.machine.device == "cuda" else 1


def _writing(run: Run, writing: Writing) -> Amount:
    """Seconds in which a stage's texts are written, once."""
    engine, machine, width = _engine(run, writing.role)
    gpus = parallel(engine)
    workers = _workers(run, gpus)
    use = replace(writing.use, rows=-(-writing.use.rows // workers), distinct=-(-writing.use.distinct // workers))
    found = decode_seconds(run.shape(writing.role), engine, use, machine, width, **_rates(run))
    devices = gpus * workers
    return Amount(found.value, f"{found.formula}, on {devices} device{'s' if devices > 1 else ''}")


def _reading(run: Run) -> Amount:
    """Seconds of one round's scores, each worker with all scorers on one device."""
    workers = _workers(run)
    score, written = run.config.score, run.written.value
    machine = run.local(score.device)
    width = _width(score.dtype, machine)
    parts: dict[str, Any] = {}
    for role in ("general", "domain"):
        parts[role] = reading_seconds(run.shape(role), run.rows, written, machine, width, **_rates(run))
    half = 2 if score.dtype == "float16" else 4
    texts = {"documents": (run.rows, min(written, score.max_length)), "summaries": (run.rows, SUMMARY_SHARE * written),
             "queries": (run.config.generate.queries, run.config.plan.query_tokens)}  # fmt: skip
    for name, (count, tokens) in texts.items():
        length = max(1, math.ceil(tokens))
        parts[name] = reading_seconds(run.shape("relevance"), count, length, machine, half, **_rates(run))
    said = "; ".join(f"{name} {part.formula}" for name, part in parts.items() if name in ("general", "documents"))
    devices = f"{workers} device{'s' if workers > 1 else ''}"
    return Amount(sum(part.value for part in parts.values()) / workers, f"on {devices}: {said}")
