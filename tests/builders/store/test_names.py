"""What a misspelt REF may have meant."""

from pathlib import Path

import pytest
from datasets_factory import add_dataset, add_model, scores_frame

from builders.store.names import naming_near, near_names, repositories
from builders.store.store import Store
from scorers.errors import UserError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Scores of three rounds and a policy."""
    store = Store(tmp_path / "store")
    for round_ in (1, 2, 3):
        add_dataset(store, "score", scores_frame(), round_=round_)
    add_model(store, "alice/demo-policy")
    return store


def test_the_repositories_of_a_store(store: Store) -> None:
    assert repositories(store, "dataset") == ["local/demo-scores"]
    assert repositories(store, "model") == ["alice/demo-policy"]
    assert repositories(Store(store.root / "none"), "model") == []


@pytest.mark.parametrize(
    ("text", "clause"),
    [
        ("local/demo-scors", "did you mean local/demo-scores?"),
        ("demo-scores", "did you mean local/demo-scores?"),
        ("locl/demo-score@round-001", "did you mean local/demo-scores?"),
        ("demo-polcy", "did you mean alice/demo-policy?"),
        ("local/demo-scores@round-02", "the store has local/demo-scores at round-002, round-003, round-001"),
        ("local/demo-scores@v7", "the store has local/demo-scores at round-001, round-002, round-003"),
        ("local/demo-scores@round-001", ""),
        ("local/demo-scores", ""),
        ("zzz", ""),
    ],
)
def test_what_is_near(store: Store, text: str, clause: str) -> None:
    assert near_names(text, store) == clause


def test_kinds_and_other_names(store: Store) -> None:
    assert near_names("local/demo-scores", store, ("model",)) == "in the store local/demo-scores is a dataset"
    assert near_names("demo-scors", store, ("model",)) == ""
    assert near_names("stf", store, ("model",), ["sft", "policy"]) == "did you mean sft?"


def test_the_error_stays_what_it_is_and_says_it_once(store: Store) -> None:
    class NotThere(UserError):
        """A kind of mistake."""

    with pytest.raises(NotThere) as error, naming_near("demo-scors", store), naming_near("demo-scors", store):
        raise NotThere("demo-scors: not there")
    assert str(error.value) == "demo-scors: not there; did you mean local/demo-scores?"
    with pytest.raises(UserError, match=r"^zzz: not there$"), naming_near("zzz", store):
        raise UserError("zzz: not there")
