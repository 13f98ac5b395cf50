"""A weights dataset as token ids: memory-mapped, made once, in parallel, and kept for every process and later training.

One Arrow file per Parquet file, written whole or not at all, so a killed run goes on with the files that are missing:

    tokens-<key>/00000.arrow    prompt_ids, completion_ids, label, weight, query_id, response_id

The key hashes the rows' digest, the tokenizer and the template's variables; the folder is safe to delete. A process
that trains maps the files, so that rows take memory only while a batch reads them.
"""

import functools
import os
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from builders.core.console import progress_bar
from builders.executors.processes import process_pool, submit
from builders.store.files import replacing
from builders.store.manifest import content_digest, describe_files, fingerprint_of
from training import chat
from training.kto.data import FINISH_REASON, READ, count_rows, require_values, with_ids

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
    }
)
VERSION = 1  # raise it when equal rows give other token ids
BATCH_ROWS = 1_000  # read, tokenized and written at a time
# Below this many rows a pool of processes, which import transformers each, takes longer than it saves.
ROWS_APART = 20_000


@dataclass(frozen=True)
class Task:
    """Tokenizing one file: plain values, so that any process can do it.

    Attributes:
        source: the Parquet file.
        target: the Arrow file to write.
        first_row: number of the file's first row in the dataset.
        tokenizer: folder or id of the model whose tokenizer and template are used.
        template_kwargs: variables of the chat template, as in sampling.
    """

    source: Path
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
        finish_reason is `length`, since the policy never wrote it.

    Raises:
        UserError: a column is missing or of another type, there is no row, a value is null, a weight is not finite; the
            template cannot render the rows (`training.chat.render`).
    """
    import datasets

    options = dict(template_kwargs or {})
    count_rows(source)
    if isinstance(source, pl.DataFrame):
        return datasets.Dataset(token_table(source, 0, _tokenizer(tokenizer), options))
    heights = [pq.read_metadata(path).num_rows for path in source]
    identity = digest or content_digest(describe_files(Path(source[0]).parent, list(source)))
    key = fingerprint_of([VERSION, identity, tokenizer_digest(_tokenizer(tokenizer)), options])[:16]
    tasks, first_row = [], 0
    for number, (path, height) in enumerate(zip(source, heights, strict=True)):
        target = folder / f"tokens-{key}" / f"{number:05d}.arrow"
        tasks.append(Task(path, target, first_row, tokenizer, options))
        first_row += height
    missing = [task for task in tasks if not task.target.is_file()]
    # Of the processes that torchrun started, the first one of each machine works and the others wait for it.
    if missing and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        with PartialState().local_main_process_first():
            _write([task for task in missing if not task.target.is_file()], first_row)
    else:
        _write(missing, first_row)
    return datasets.concatenate_datasets([datasets.Dataset.from_file(str(task.target)) for task in tasks])


def _write(tasks: Sequence[Task], rows: int) -> None:
    """Write the missing files: in this process where the dataset is small, else in one process per core."""
    with progress_bar("tokenize", "file", len(tasks)) as bar:
        if rows < ROWS_APART or len(tasks) < 2:
            for task in tasks:
                write_tokens(task)
                bar.update()
            return
        with process_pool(min(len(tasks), os.cpu_count() or 1)) as pool:
            running: list[Future[None]] = [submit(pool, write_tokens, task) for task in tasks]
            for future in running:
                future.result()
                bar.update()


def write_tokens(task: Task) -> None:
    """Tokenize one file; the unit of work.

    Raises:
        UserError: as `tokenized`, naming the row.
    """
    tokenizer = _tokenizer(task.tokenizer)
    task.target.parent.mkdir(parents=True, exist_ok=True)
    file = pq.ParquetFile(task.source)
    columns = [name for name in file.schema_arrow.names if name in READ]
    row = task.first_row
    with replacing(task.target) as target, pa.ipc.new_stream(target, SCHEMA) as writer:
        for batch in file.iter_batches(BATCH_ROWS, columns=columns):
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)  # a batch of columns is no Series
            writer.write_table(token_table(frame, row, tokenizer, task.template_kwargs))
            row += len(frame)


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
    rest = frame.select(SCHEMA.names[2:]).to_arrow()
    return pa.table({**columns, **{name: rest.column(name) for name in rest.column_names}}).cast(SCHEMA)


@functools.lru_cache(maxsize=1)
def _tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(name, trust_remote_code=False)


def tokenizer_digest(tokenizer: Any) -> str:
    """Return the digest of the files that a tokenizer saves, wherever it was loaded from."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return content_digest(describe_files(Path(folder), sorted(p for p in Path(folder).rglob("*") if p.is_file())))
