"""The log of a training: its lines, reading it back, and what a round takes over."""

import json
import math
from pathlib import Path

import pytest

from builders.store.training_log import SCHEMA, earlier_rows, log_rows, log_text, read_log
from scorers.errors import UserError

HISTORY = [
    {"step": 1, "epoch": 0.5, "loss": 0.5, "grad_norm": math.nan, "learning_rate": 1e-4, "rewards/chosen": 0.25},
    {"step": 2, "epoch": 1.0, "loss": 0.1 + 0.2, "grad_norm": 2, "learning_rate": 0.0, "kl": math.inf},
    {"step": 2, "epoch": 1.0, "train_runtime": 12.5, "train_loss": 0.4},
]


def test_a_line_per_step_without_clock_times() -> None:
    text = log_text(log_rows(HISTORY, round=3, first_step=10))
    assert [json.loads(line) for line in text.splitlines()] == [
        {"step": 11, "round": 3, "loss": 0.5, "learning_rate": 1e-4, "rewards/chosen": 0.25},
        {"step": 12, "round": 3, "loss": 0.1 + 0.2, "learning_rate": 0.0, "grad_norm": 2.0},
    ]
    assert "round" not in json.loads(log_text(log_rows(HISTORY)).splitlines()[0])


def test_it_is_read_back_to_the_last_digit(tmp_path: Path) -> None:
    path = tmp_path / "training_log.jsonl"
    path.write_text(log_text(log_rows(HISTORY, round=1)), encoding="utf-8")
    found = read_log(path)
    assert found.schema == SCHEMA and found["loss"].to_list() == [0.5, 0.1 + 0.2]
    assert found["grad_norm"].to_list() == [None, 2.0] and found["kl"].to_list() == [None, None]
    assert log_text(found.to_dicts()) == path.read_text(encoding="utf-8")
    path.write_text("", encoding="utf-8")
    assert read_log(path).is_empty()


@pytest.mark.parametrize("text", ["no JSON", '{"step": "one", "loss": 1}', '{"step": 1, "loss": {"a": 1}}'])
def test_another_file_of_its_name(text: str, tmp_path: Path) -> None:
    path = tmp_path / "training_log.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_log(path)
    assert str(error.value).startswith(f"{path}: not readable as the log of a training: ")
    assert str(error.value).endswith("; delete it, or fetch the model again") and "\n" not in str(error.value)


def test_a_round_takes_over_the_log_that_ends_where_it_begins(tmp_path: Path) -> None:
    path = tmp_path / "training_log.jsonl"
    assert earlier_rows(path, 2, 2) == []
    path.write_text(log_text(log_rows(HISTORY, round=1)), encoding="utf-8")
    assert [row["step"] for row in earlier_rows(path, 2, 2)] == [1, 2]
    assert earlier_rows(path, 1, 0) == earlier_rows(path, 3, 2) == earlier_rows(path, 2, 4) == []
    # The log of a model that was not trained in rounds, such as the first policy's.
    path.write_text(log_text(log_rows(HISTORY)), encoding="utf-8")
    assert earlier_rows(path, 2, 2) == []
