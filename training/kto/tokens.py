"""A weights dataset as token ids: memory-mapped, made once, in parallel, and kept for every process and later training.

One Arrow file per range of a Parquet file's rows, so that all cores share one large file too. A file is written whole
or not at all, so a killed run goes on with the files that are missing:

    tokens-<key>/00000.arrow    prompt_ids, completion_ids, label, weight, query_id, response_id, logprob

The key hashes the rows' digest, the tokenizer and the template's variables; the folder is safe to delete. A process
that trains maps the files, so that rows take memory only while a batch reads them.
"""

import functools
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from builders.core.console import progress_bar
from builders.executors.processes import process_pool, submit
from builders.store.files import arrow_sink, replacing
from builders.store.manifest import content_digest, describe_files, fingerprint_of
from training import chat
from training.kto.data import FINISH_REASON, READ, count_rows, require_values, with_ids, with_logprob

if TYPE_CHECKING:
    import datasets

IDS = pa.list_(pa.int32())
SCHEMA = pa.schema(
    {
        "prompt_ids": IDS,
        "completion_ids": IDS,
        "label": pa.bool_(),
        "weight": pa.float64(),
        "query_id": pa.string(),
        "response_id": pa.string(),
        "logprob": pa.float64(),
    }
)
VERSION = 3  # raise it when equal rows give other token ids or are put into other files
BATCH_ROWS = 1_000  # read and tokenized at a time
RANGE_ROWS = 20_000  # rows of one Arrow file at most, which take a core about 20 s
WRITE_BYTES = 32 << 20  # of one record batch, about: many small ones make a mapped file's pages resident in passing
READ_BYTES = 1 << 20  # of each column; else a row group's whole column is read at once
# Below this many rows a pool of processes, which import transformers each, takes longer than it saves.
ROWS_APART = 20_000


@dataclass(frozen=True)
class RowRange:
    """Some rows of a Parquet file that follow one another.

    Attributes:
        groups: numbers of the row groups that hold them.
        skip: rows of the first group that come before them.
        rows: number of the rows.
    """

    groups: tuple[int, ...]
    skip: int
    rows: int


@dataclass(frozen=True)
class Task:
    """Tokenizing one range of rows: plain values, so that any process can do it.

    Attributes:
        source: the Parquet file.
        range: the rows of it.
        target: the Arrow file to write.
        first_row: number of the first of these rows in the dataset.
        tokenizer: folder or id of the model whose tokenizer and template are used.
        template_kwargs: variables of the chat template, as in sampling.
    """

    source: Path
    range: RowRange
    target: Path
    first_row: int
    tokenizer: str
    template_kwargs: Mapping[str, Any]


def tokenized(
    source: pl.DataFrame | Sequence[Path],
    tokenizer: str,
    folder: Path,
    *,
    digest: str | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
) -> "datasets.Dataset":
    """Return a weights dataset as token ids, from the files of an earlier call where they are there.

    Args:
        source: the rows, or the Parquet files that hold them; `training.kto.data.READ` are the columns that count.
        tokenizer: folder or id of the model whose tokenizer and chat template are used.
        folder: where the folder `tokens-<key>` lies.
        digest: what identifies the rows, such as a revision's content digest; None: the digest of the files.
        template_kwargs: variables of the chat template, the same as in sampling.

    Returns:
        The columns of `SCHEMA`, rows in the order of the source. Where query_id is absent, rows with equal prompts are
        one query; where response_id is absent, it is `row i`, i from 0. The end of the turn is left out of rows whose
        finish_reason is `length`, since the policy never wrote it. `logprob` is the sampler's; null where it gave none,
        and where the row has not as many tokens as the policy wrote.

    Raises:
        UserError: a column is missing or of another type, there is no row, a value is null, a weight is not finite; the
            template cannot render the rows (`training.chat.render`).
    """
    import datasets

    options = dict(template_kwargs or {})
    count_rows(source)
    if isinstance(source, pl.DataFrame):
        return datasets.Dataset(token_table(source, 0, _tokenizer(tokenizer), options))
    identity = digest or content_digest(describe_files(Path(source[0]).parent, list(source)))
    key = fingerprint_of([VERSION, identity, tokenizer_digest(_tokenizer(tokenizer)), options])[:16]
    tasks: list[Task] = []
    first_row = 0
    for path in source:
        for part in row_ranges(path):
            target = folder / f"tokens-{key}" / f"{len(tasks):05d}.arrow"
            tasks.append(Task(path, part, target, first_row, tokenizer, options))
            first_row += part.rows
    missing = [task for task in tasks if not task.target.is_file()]
    # Of the processes that torchrun started, the first one of each machine works and the others wait for it.
    if missing and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        with PartialState().local_main_process_first():
            _write([task for task in missing if not task.target.is_file()], first_row)
    else:
        _write(missing, first_row)
    return datasets.concatenate_datasets([datasets.Dataset.from_file(str(task.target)) for task in tasks])


def row_ranges(file: Path) -> list[RowRange]:
    """Cut a Parquet file into ranges of at most `RANGE_ROWS` rows: whole row groups, as far as they are not larger.

    A range within a row group reads the group's rows before it and drops them, at a two-hundredth of the cost of
    tokenizing them: the last range of a group of 1,000,000 rows takes a quarter longer.
    """
    metadata = pq.read_metadata(file)
    heights = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    ranges: list[RowRange] = []
    for group, height in enumerate(heights):
        for skip in range(0, height, RANGE_ROWS):
            rows = min(RANGE_ROWS, height - skip)
            if skip == 0 and ranges and ranges[-1].rows + rows <= RANGE_ROWS:
                before = ranges.pop()
                ranges.append(RowRange((*before.groups, group), before.skip, before.rows + rows))
            else:
                ranges.append(RowRange((group,), skip, rows))
    return ranges


def _write(tasks: Sequence[Task], rows: int) -> None:
    """Write the missing files: in this process where the dataset is small, else in one process per core."""
    cores = os.cpu_count() or 1
    workers = min(len(tasks), cores)
    with progress_bar("tokenize", "file", len(tasks)) as bar:
        if rows < ROWS_APART or len(tasks) < 2:
            for task in tasks:
                write_tokens(task)
                bar.update()
            return
        with process_pool(workers) as pool:
            running: list[Future[None]] = [submit(pool, _write_apart, task, cores // workers) for task in tasks]
            try:
                for future in running:
                    future.result()
                    bar.update()
            except BaseException:
                pool.shutdown(cancel_futures=True)  # else the message would come after hours of further work
                raise


def _write_apart(task: Task, threads: int) -> None:
    """Tokenize one range in a process of a pool, of which each has its share of the cores.

    Args:
        task: the range.
        threads: threads of the tokenizer; without a limit each process would have one per core.
    """
    os.environ.setdefault("RAYON_NUM_THREADS", str(threads))  # read when the tokenizer first works
    write_tokens(task)


def write_tokens(task: Task) -> None:
    """Tokenize one range of rows; the unit of work.

    Raises:
        UserError: as `tokenized`, naming the row.
    """
    tokenizer = _tokenizer(task.tokenizer)
    task.target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(task.target) as target, arrow_sink(target) as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
        for table in _joined(_tables(task, tokenizer)):
            writer.write_table(table)
            sink.require_written()


def _tables(task: Task, tokenizer: Any) -> Iterator[pa.Table]:
    """Tokenize a range of rows, at most `BATCH_ROWS` at a time."""
    row = task.first_row
    for frame in _frames(task.source, task.range):
        yield token_table(frame, row, tokenizer, task.template_kwargs)
        row += len(frame)


def _joined(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Put tables that follow one another together, until they have `WRITE_BYTES`."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(one.nbytes for one in held) >= WRITE_BYTES:
            yield pa.concat_tables(held).combine_chunks()
            held = []
    if held:
        yield pa.concat_tables(held).combine_chunks()


def _frames(source: Path, part: RowRange) -> Iterator[pl.DataFrame]:
    """Read a range of rows, at most `BATCH_ROWS` at a time."""
    with pq.ParquetFile(source, buffer_size=READ_BYTES) as file:
        columns = [name for name in file.schema_arrow.names if name in READ]
        skip, left = part.skip, part.rows
        for batch in file.iter_batches(BATCH_ROWS, row_groups=part.groups, columns=columns):
            kept = batch.slice(min(skip, len(batch)), left)
            skip -= len(batch) - len(kept)
            if len(kept):
                yield pl.DataFrame(kept)
            left -= len(kept)
            if not left:
                return


def token_table(frame: pl.DataFrame, first_row: int, tokenizer: Any, template_kwargs: Mapping[str, Any]) -> "pa.Table":
    """Tokenize some rows.

    Args:
        frame: rows with the columns of `READ`.
        first_row: number of the first row in the dataset, for its name in messages.
        tokenizer: a tokenizer with a chat template.
        template_kwargs: variables of the template.
    """
    frame = with_ids(frame.with_columns(pl.col("weight").cast(pl.Float64)), first_row)
    require_values(frame)
    finished = None
    if FINISH_REASON in frame.columns:
        finished = (frame[FINISH_REASON].fill_null("stop") != "length").to_list()
    prompts, completions = chat.tokenize(
        tokenizer, frame["prompt"].to_list(), frame["completion"].to_list(), template_kwargs, finished
    )
    columns = {"prompt_ids": pa.array(prompts, IDS), "completion_ids": pa.array(completions, IDS)}
    frame = with_logprob(frame, [len(ids) for ids in completions])
    rest = frame.select(SCHEMA.names[2:]).to_arrow()
    return pa.table({**columns, **{name: rest.column(name) for name in rest.column_names}}).cast(SCHEMA)


@functools.lru_cache(maxsize=1)
def _tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(name, trust_remote_code=False)


def tokenizer_digest(tokenizer: Any) -> str:
    """Return the digest of the files that a tokenizer saves, wherever it was loaded from."""
    chat.forget_how_loaded(tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return content_digest(describe_files(Path(folder), sorted(p for p in Path(folder).rglob("*") if p.is_file())))
