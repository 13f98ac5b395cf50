"""A weights dataset as token ids: the policy's own, made once, kept on disk, in parallel."""

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from scorers.errors import UserError
from training.kto import tokens
from training.kto.tokens import tokenized

TEXTS = ["The river grew.", "Trade fell", "Prices rose in spring."]


def weights_frame(rows: int = 6, **changes: Any) -> pl.DataFrame:
    columns = {
        "query_id": [f"q{i // 2}" for i in range(rows)],
        "response_id": [f"q{i // 2}-{i % 2}" for i in range(rows)],
        "prompt": [[{"role": "user", "content": f"Write report {i // 2}"}] for i in range(rows)],
        "completion": [[{"role": "assistant", "content": TEXTS[i % 3]}] for i in range(rows)],
        "finish_reason": ["stop", "length"] * (rows // 2),
        "label": [True, False] * (rows // 2),
        "weight": [1.5, -1.0] * (rows // 2),
    }
    return pl.DataFrame(columns | changes)


def files_of(frame: pl.DataFrame, folder: Path, parts: int = 2) -> list[Path]:
    folder.mkdir(exist_ok=True)
    size = -(-frame.height // parts)
    paths = [folder / f"train-{i:05d}-of-{parts:05d}.parquet" for i in range(parts)]
    for i, path in enumerate(paths):
        frame[i * size : (i + 1) * size].write_parquet(path)
    return paths


def test_tokens_are_what_the_policy_read_and_wrote(causal_lm_dir: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(causal_lm_dir)
    frame = weights_frame()
    rows = tokenized(files_of(frame, tmp_path / "data"), str(causal_lm_dir), tmp_path)
    assert rows.column_names == tokens.SCHEMA.names
    for row, given in zip(rows, frame.iter_rows(named=True), strict=True):
        asked = tokenizer.apply_chat_template(given["prompt"], add_generation_prompt=True, return_dict=False)
        assert row["prompt_ids"] == asked
        written = tokenizer(given["completion"][0]["content"], add_special_tokens=False)["input_ids"]
        whole = tokenizer.apply_chat_template(given["prompt"] + given["completion"], return_dict=False)
        ended = written + whole[len(asked) + len(written) :]
        # A response that was cut at the limit never had an end of the turn.
        assert row["completion_ids"] == (written if given["finish_reason"] == "length" else ended)
        assert len(ended) > len(written)
        assert (row["label"], row["weight"], row["query_id"]) == (given["label"], given["weight"], given["query_id"])


def test_files_of_an_earlier_call_are_taken(
    causal_lm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = files_of(weights_frame(), tmp_path / "data", parts=3)
    first = tokenized(paths, str(causal_lm_dir), tmp_path)
    assert all(file["filename"].endswith(".arrow") for file in first.cache_files)  # mapped, not in memory
    (made,) = tmp_path.glob("tokens-*")
    removed = made / "00001.arrow"
    removed.unlink()
    written: list[Path] = []
    write = tokens.write_tokens

    def noted(task: tokens.Task) -> None:
        written.append(task.target)
        write(task)

    monkeypatch.setattr(tokens, "write_tokens", noted)
    second = tokenized(paths, str(causal_lm_dir), tmp_path)
    assert written == [removed] and second[:] == first[:]
    tokenized(paths, str(causal_lm_dir), tmp_path, digest="another dataset")
    assert len(written) == 4


def test_a_failure_leaves_no_file_behind(causal_lm_dir: Path, tmp_path: Path) -> None:
    frame = weights_frame(weight=[1.0, 1.0, 1.0, 1.0, float("nan"), 1.0])
    paths = files_of(frame, tmp_path / "data")
    with pytest.raises(UserError, match=r"weight of q2-0 is nan"):
        tokenized(paths, str(causal_lm_dir), tmp_path)
    (made,) = tmp_path.glob("tokens-*")
    assert [path.name for path in made.iterdir()] == ["00000.arrow"]


@pytest.mark.slow
def test_a_bad_row_ends_the_work_of_all_processes(
    causal_lm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "ROWS_APART", 1)
    monkeypatch.setattr(tokens, "RANGE_ROWS", 1)
    rows = 1_000
    paths = files_of(weights_frame(rows, weight=[float("nan")] + [1.0] * (rows - 1)), tmp_path / "data", parts=1)
    with pytest.raises(UserError, match=r"weight of q0-0 is nan"):
        tokenized(paths, str(causal_lm_dir), tmp_path)
    assert len(list(tmp_path.glob("tokens-*/*.arrow"))) < rows - 1


@pytest.mark.slow
def test_a_pool_of_processes_writes_the_same_bytes(
    causal_lm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = files_of(weights_frame().drop("query_id", "response_id"), tmp_path / "data", parts=1)
    monkeypatch.setattr(tokens, "RANGE_ROWS", 4)  # so that they share one file
    tokenized(paths, str(causal_lm_dir), tmp_path / "here")
    monkeypatch.setattr(tokens, "ROWS_APART", 1)
    rows = tokenized(paths, str(causal_lm_dir), tmp_path / "apart")
    here, apart = (sorted((tmp_path / name).glob("tokens-*/*.arrow")) for name in ("here", "apart"))
    assert [a.read_bytes() for a in here] == [b.read_bytes() for b in apart] and len(here) == 2
    assert rows["response_id"][:] == [f"row {i}" for i in range(6)]
    assert len(set(rows["query_id"])) == 3


@pytest.mark.parametrize("group_rows", [1, 2, 3, 7, 100])  # below, above and beside the rows of a range
def test_one_file_is_tokenized_in_ranges(
    causal_lm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group_rows: int
) -> None:
    monkeypatch.setattr(tokens, "RANGE_ROWS", 4)
    monkeypatch.setattr(tokens, "BATCH_ROWS", 3)
    frame = weights_frame(22).drop("response_id")
    path = tmp_path / "rows.parquet"
    pq.write_table(frame.to_arrow(), path, row_group_size=group_rows)
    ranges = tokens.row_ranges(path)
    assert max(part.rows for part in ranges) <= 4 and 6 <= len(ranges) <= 8
    found = tokenized([path], str(causal_lm_dir), tmp_path)
    assert found[:] == tokenized(frame, str(causal_lm_dir), tmp_path)[:]
    assert found["response_id"][:] == [f"row {i}" for i in range(22)]
    assert len(list(tmp_path.glob("tokens-*/*.arrow"))) == len(ranges)
    assert found.data.column("label").num_chunks == len(ranges)
    monkeypatch.setattr(tokens, "WRITE_BYTES", 1)
    apart = tokenized([path], str(causal_lm_dir), tmp_path, digest="in small batches")
    assert apart[:] == found[:] and apart.data.column("label").num_chunks > len(ranges)


def test_one_file_is_resumed_by_range(causal_lm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "RANGE_ROWS", 4)
    weights = [1.0] * 9 + [float("nan")] + [1.0] * 2
    broken = weights_frame(12, weight=weights).drop("response_id")
    paths = files_of(broken, tmp_path / "data", parts=1)
    with pytest.raises(UserError, match=r"weight of row 9 is nan"):
        tokenized(paths, str(causal_lm_dir), tmp_path, digest="these rows")
    (made,) = tmp_path.glob("tokens-*")
    done = {path: path.stat().st_mtime_ns for path in made.iterdir()}
    assert [path.name for path in sorted(done)] == ["00000.arrow", "00001.arrow"]
    (made / "00001.arrow").unlink()
    repaired = broken.with_columns(weight=pl.lit(1.0))
    files_of(repaired, tmp_path / "data", parts=1)
    rows = tokenized(paths, str(causal_lm_dir), tmp_path, digest="these rows")
    assert rows[:] == tokenized(repaired, str(causal_lm_dir), tmp_path)[:]
    assert (made / "00000.arrow").stat().st_mtime_ns == done[made / "00000.arrow"]


def test_a_frame_is_tokenized_in_memory(causal_lm_dir: Path, tmp_path: Path) -> None:
    frame = weights_frame()
    rows = tokenized(frame, str(causal_lm_dir), tmp_path)
    assert rows[:] == tokenized(files_of(frame, tmp_path / "data"), str(causal_lm_dir), tmp_path)[:]


def test_the_key_follows_the_template(causal_lm_dir: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(causal_lm_dir)
    before = tokens.tokenizer_digest(tokenizer)
    assert before == tokens.tokenizer_digest(AutoTokenizer.from_pretrained(causal_lm_dir))
    assert before == tokens.tokenizer_digest(AutoTokenizer.from_pretrained(causal_lm_dir, local_files_only=True))
    tokenizer.chat_template += " "
    assert tokens.tokenizer_digest(tokenizer) != before


def test_a_template_that_changes_the_answer_is_refused(causal_lm_dir: Path, tmp_path: Path) -> None:
    """A template that puts an empty thought before an answer that it renders, but not before one that it asks for."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(causal_lm_dir)
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think></think>{% endif %}"
        "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}"
    )
    tokenizer.save_pretrained(tmp_path / "thinks")
    frame = weights_frame()
    with pytest.raises(UserError, match=r"enable_thinking: false"):
        tokenized(frame, str(tmp_path / "thinks"), tmp_path)
    rows = tokenized(frame, str(tmp_path / "thinks"), tmp_path, template_kwargs={"enable_thinking": False})
    assert tokenizer.decode(rows[1]["completion_ids"]) == TEXTS[1]


def test_no_row_is_an_error_before_any_work(causal_lm_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="0 rows"):
        tokenized(weights_frame().head(0), str(causal_lm_dir), tmp_path)
    assert list(tmp_path.iterdir()) == []
