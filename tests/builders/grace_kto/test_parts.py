"""The parts of `generate`: what they depend on, that a run goes on with those that are there, and equal bytes."""

import pickle
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_configs import SEEDS, config_on
from scripted_engine import Script, context_of

from builders.core.stage import Context, Shard
from builders.core.work import build_missing, build_shards, finished_shards, shard_path
from builders.grace_kto import generate, parts
from builders.grace_kto.settings import GraceKTOSettings
from builders.store.columns import frame_of
from builders.store.files import file_sha256
from builders.store.shards import shard_counts, write_shard
from scorers.errors import UserError
from training.grace_kto.pipeline import GRACE_KTO
from training.pipelines import build

pytestmark = pytest.mark.slow


def scattered(seed: int) -> str:
    """A reply that depends on its prompt's seed: new queries, repetitions and blanks."""
    return repr([f"Write about theme {seed % 31}.", f"Write {seed}.", "" if seed % 3 else SEEDS[0]])


MANY = ("generate.queries=60", "generate.shard_queries=13", "generate.per_prompt=3")


def test_the_order_and_size_of_the_parts_and_kills_change_no_byte(
    tmp_path: Path, causal_lm_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(name: str, at_once: int) -> Context[GraceKTOSettings]:
        monkeypatch.setattr(parts, "PROMPTS_AT_ONCE", at_once)
        context, engine = context_of(tmp_path, causal_lm_dir, scattered, *MANY)
        engines.append(engine)
        return replace(context, work=tmp_path / name / "work")

    def bytes_of(context: Context[GraceKTOSettings]) -> list[str]:
        return [file_sha256(path) for path in build_shards(GRACE_KTO.stage("generate"), context)]

    engines: list[Script] = []
    whole = bytes_of(work("whole", 512))
    waves = engines[0].calls
    assert len(whole) == 5 and waves[0] == 20 and len(waves) > 1  # a wave goes to the engine at once
    small = work("small", 3)
    assert bytes_of(small) == whole and max(engines[1].calls) == 3
    # Parts of the first wave made elsewhere, from pickled tasks, the last one first.
    context = work("reversed", 3)
    for first in reversed(range(0, 20, 3)):
        task = pickle.dumps((generate.ASK, Shard(first, (first, min(3, 20 - first)))))
        step, part = pickle.loads(task)  # noqa: S301
        build_missing(step, generate.parts_of(context), [part])
    assert bytes_of(context) == whole
    # Killed in a part, a damaged part, killed in the stage's own shards: nothing is asked twice but what was lost.
    context = work("killed", 3)
    folder = generate.parts_of(context).work
    folder.mkdir(parents=True)
    for path in list(finished_shards(generate.parts_of(small).work).values())[:4]:
        for file in (path, path.with_suffix(".sha256")):
            (folder / file.name).write_bytes(file.read_bytes())
    (folder / "shard-00003.parquet").write_bytes(b"PAR1")
    assert bytes_of(context) == whole
    assert sum(engines[3].calls) == sum(waves) - 9
    (context.work / "shard-00002.parquet").unlink()
    assert bytes_of(context) == whole and sum(engines[3].calls) == sum(waves) - 9


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 20), st.integers(1, 9)), min_size=1, max_size=6))
def test_parts_cover_every_range_without_gap_or_overlap(
    tmp_path_factory: pytest.TempPathFactory, wanted: list[tuple[int, int, int]]
) -> None:
    """Ranges of any order and size over one folder: what is there is kept, and no prompt is planned twice."""
    folder = tmp_path_factory.mktemp("parts")
    with pytest.MonkeyPatch.context() as patch:
        for start, size, at_once in wanted:
            patch.setattr(parts, "PROMPTS_AT_ONCE", at_once)
            there = finished_shards(folder)
            planned = parts.plan_parts(folder, range(start, start + size))
            prompts = [number for part in planned for number in range(part.spec[0], sum(part.spec))]
            assert prompts == list(range(prompts[0], prompts[-1] + 1))
            assert prompts[0] <= start and prompts[-1] >= start + size - 1
            for part in planned:
                path = shard_path(folder, part)
                assert part.index == part.spec[0]
                if path in there.values():
                    assert shard_counts(path) == {"read": part.spec[1]}
                else:
                    assert part.spec[1] <= at_once
                    write_shard(frame_of([], parts.PARTS_COLUMNS), parts.PARTS_COLUMNS, path, {"read": part.spec[1]})


@dataclass
class Runs:
    """Builds the queries in a store of their own name, by the runner."""

    folder: Path
    policy: Path
    patch: pytest.MonkeyPatch

    def __call__(self, store: str, *overrides: str, stop: str | None = None) -> tuple[str | None, list[int]]:
        """The digest of the queries' files and the seeds of the prompts that were sent.

        There is no digest where the run has to `stop` with such a message.
        """
        (self.folder / store).mkdir(exist_ok=True)
        engine = Script(scattered)
        self.patch.setattr("builders.core.stage.load_engine_for", lambda settings, model, rank, setting: engine)
        config = config_on(self.folder / store, *MANY, *overrides, policy=self.policy)
        digest = None
        with nullcontext() if stop is None else pytest.raises((UserError, KeyboardInterrupt), match=stop):
            digest = build(config, "generate")[-1].revision.digest
        return digest, [seed for _, seed in engine.asked]

    def parts(self, store: str) -> list[Path]:
        """The folders of parts in a store."""
        return sorted((self.folder / store / "store" / ".work").glob("*/parts-*"))


@pytest.fixture
def run(tmp_path: Path, causal_lm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, causal_lm_dir, monkeypatch)


def test_a_run_goes_on_with_its_replies_when_more_attempts_are_allowed(run: Runs) -> None:
    undisturbed, sent = run("other")
    assert len(sent) > 20 and run.parts("other") == []
    _, first = run("store", "generate.max_attempts=1", stop="after 20 prompts")
    assert first == sent[:20] and len(run.parts("store")) == 1
    digest, more = run("store")
    assert more == sent[20:]
    assert digest == undisturbed and run.parts("store") == []


@pytest.mark.parametrize(
    "changed",
    [
        ("generate.queries=100",),
        ("generate.queries=40",),
        ("generate.near_duplicate_threshold=0.9",),
        ("generate.shard_queries=7",),
    ],
)
def test_settings_that_decide_nothing_about_a_reply_ask_only_what_was_not_asked(
    run: Runs, changed: tuple[str, ...]
) -> None:
    undisturbed, sent = run("other", *changed)
    _, before = run("store", "generate.max_attempts=2", "generate.queries=80", stop="after")
    digest, more = run("store", *changed)
    assert digest == undisturbed
    assert more == [seed for seed in sent if seed not in before] and len(more) < len(sent)


@pytest.mark.parametrize(
    "changed", ["generate.temperature=0.5", "generate.max_query_chars=50", "sample.max_new_tokens=7", "random_seed=1"]
)
def test_what_decides_a_reply_asks_anew(run: Runs, changed: str) -> None:
    undisturbed, sent = run("other", changed)
    run("store", "generate.max_attempts=1", stop="after 20 prompts")
    digest, more = run("store", changed)
    assert more == sent and digest == undisturbed
    assert len(run.parts("store")) == 1  # those of the run that failed


def test_killed_and_resumed_with_other_settings(run: Runs) -> None:
    """Killed after some parts of a wave; then more queries are wanted: the parts are of another size than planned."""
    run.patch.setattr(parts, "PROMPTS_AT_ONCE", 8)
    undisturbed, sent = run("other", "generate.queries=90")

    def stop_at_the_third(frame: pl.DataFrame, columns: Any, path: Path, counts: dict[str, int]) -> None:
        if path.name == "shard-00016.parquet":
            raise KeyboardInterrupt("killed")
        write_shard(frame, columns, path, counts)

    with run.patch.context() as patch:
        patch.setattr("builders.core.work.write_shard", stop_at_the_third)
        run("store", stop="killed")
    run.patch.setattr(parts, "PROMPTS_AT_ONCE", 5)
    digest, more = run("store", "generate.queries=90")
    assert digest == undisturbed
    assert more == sent[16:]
