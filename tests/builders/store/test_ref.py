"""REFs: names, revisions and paths, and what is none."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.store.ref import Ref, is_commit, parse_name, parse_ref, valid_revision
from scorers.errors import UserError

HOSTILE = [
    "../x",
    "..",
    "a/../b",
    "/etc/passwd",
    "a//b",
    ".hidden",
    "-f",
    "a\nb",
    "a\0b",
    "a b",
    "~",
    "",
    "x" * 200,
    "é",
]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "repo", "revision"),
    [
        ("ns/x", "ns/x", None),
        ("x", "x", None),
        ("ns/x@main", "ns/x", "main"),
        (f"ns/x@{COMMIT}", "ns/x", COMMIT),
        ("ns/x@round-001", "ns/x", "round-001"),
        ("ns/x@refs/pr/1", "ns/x", "refs/pr/1"),
    ],
)
def test_references(text: str, repo: str, revision: str | None) -> None:
    ref = parse_ref(text)
    assert (ref.repo, ref.revision, ref.path) == (repo, revision, None)
    assert str(ref) == text


@pytest.mark.parametrize(
    "text", [*(f"ns/x@{revision}" for revision in HOSTILE), "", "../x", "a/b/c", "a b", "@main", "/no/such", "x" * 5000]
)
def test_what_names_nothing(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"names no dataset: expected namespace/name, namespace/name@revision or an exi"
    ):
        parse_ref(text)


@pytest.mark.parametrize("text", ["nope.csv", "./nope.jsonl", "a/b/c.parquet", "/no/such.CSV.gz"])
def test_a_file_that_is_not_there_is_no_dataset_of_the_hub(text: str) -> None:
    with pytest.raises(UserError, match=f"^{text}: no such file; name one that exists, or a dataset as namespace/name"):
        parse_ref(text)
    assert parse_ref("owner/name.csv").repo == "owner/name.csv"


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ns" / "x").mkdir(parents=True)
    (tmp_path / "rows.parquet").touch()
    monkeypatch.chdir(tmp_path)
    assert parse_ref(str(tmp_path / "ns")).path == tmp_path / "ns"
    assert parse_ref("./ns/x").path == Path("ns/x")
    assert parse_ref("rows.parquet").path == Path("rows.parquet")
    # As in `datasets.load_dataset` a folder comes before a repository of its name; with a revision it is the name.
    assert parse_ref("ns/x").path == Path("ns/x")
    assert parse_ref("ns/x@main") == Ref("ns/x", "main") and parse_name("ns/x") == Ref("ns/x", None)
    assert parse_name("./ns/x") is None


@given(st.text(max_size=60))
def test_a_valid_revision_stays_inside_its_folder(text: str) -> None:
    if valid_revision(text):
        root = Path("/refs")
        assert (root / text).resolve().is_relative_to(root) and text.isprintable()
    assert is_commit(text) <= valid_revision(text)
