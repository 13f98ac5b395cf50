"""Other people's datasets: one split of one subset, in any format that `datasets` reads, pulled or in a folder."""

import gzip
import io
import shutil
from pathlib import Path

import polars as pl
import pytest
from hub_clients import push
from hub_server import HubServer
from huggingface_hub import HfApi

from builders.hub.refs import open_revision
from builders.store.revision import Choice, Revision
from builders.store.store import Store
from scorers.errors import UserError

REPO = "somebody/essays"
TWO_SUBSETS = """---
configs:
- config_name: en
  data_files:
  - {split: train, path: en/train/*.parquet}
  - {split: test, path: en/test.parquet}
- config_name: zh
  data_files: zh/*.parquet
---
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def api(connected: HubServer) -> HfApi:
    connected.add_token("hf_somebody", "somebody")
    api = HfApi(endpoint=connected.endpoint, token="hf_somebody")
    api.create_repo(REPO, repo_type="dataset")
    return api


def parquet(first: int, rows: int) -> bytes:
    """Rows of one integer column `n`, from `first`."""
    file = io.BytesIO()
    pl.DataFrame({"n": range(first, first + rows)}, schema={"n": pl.Int64}).write_parquet(file)
    return file.getvalue()


def numbers(revision: Revision) -> list[int]:
    return [int(n) for n in revision.scan().collect()["n"]]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.jsonl.gz", "test.parquet"])
def test_one_file_is_a_dataset_whatever_lies_beside_it(store: Store, tmp_path: Path, name: str) -> None:
    lines = {"a.jsonl": b'{"n": 1}\n{"n": 2}\n', "a.csv": b"n\n1\n2\n", "test.parquet": parquet(1, 2)}
    lines["a.jsonl.gz"] = gzip.compress(lines["a.jsonl"])
    folder = write(tmp_path / "data", {name: lines[name], "b.jsonl": b"{", "README.md": TWO_SUBSETS.encode()})
    first = open_revision(str(folder / name), store)
    assert numbers(first) == [1, 2]
    assert open_revision(str(folder / name), store).digest == first.digest
    with pytest.raises(UserError, match=r"no split other"):
        open_revision(str(folder / name), store, choice=Choice(None, "other"))


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def fetched(hub: HubServer) -> set[str]:
    """The files that were downloaded."""
    paths = [entry.path.partition("/resolve/")[2].partition("/")[2] for entry in hub.log.entries]
    return {path for path in paths if path}


def test_the_split_train_is_read_and_no_other_is_fetched(connected: HubServer, api: HfApi, store: Store) -> None:
    push(
        api,
        REPO,
        {"data/train-00000-of-00001.parquet": parquet(0, 48), "data/test-00000-of-00001.parquet": parquet(48, 8)},
    )
    train = open_revision(REPO, store, "dataset")
    assert numbers(train) == list(range(48)) and fetched(connected) == {"data/train-00000-of-00001.parquet"}
    test = open_revision(REPO, store, "dataset", choice=Choice(split="test"))
    assert numbers(test) == list(range(48, 56))
    assert test.revision == train.revision and test.digest != train.digest
    # The choice is part of what is known of it, as far as it is not what everybody gets.
    assert (train.part, test.part) == (Choice(), Choice(split="test"))
    with pytest.raises(UserError, match=r"no split tset, did you mean test\?; it has train, test; choose with --split"):
        open_revision(REPO, store, "dataset", choice=Choice(split="tset"))


def test_a_commit_is_opened_again_without_the_hub(connected: HubServer, api: HfApi, store: Store) -> None:
    commit = push(
        api, REPO, {"train.parquet": parquet(0, 3), "test.parquet": parquet(3, 2), "README.md": b"# Essays\n"}
    )
    first = open_revision(f"{REPO}@{commit}", store, "dataset")
    connected.log.clear()
    assert open_revision(f"{REPO}@{commit}", store, "dataset") == first and connected.log.count() == 0
    assert numbers(open_revision(f"{REPO}@{commit}", store, "dataset", choice=Choice(split="test"))) == [3, 4]


def test_of_several_subsets_one_has_to_be_chosen(connected: HubServer, api: HfApi, store: Store) -> None:
    files = {
        "README.md": TWO_SUBSETS.encode(),
        "en/train/a.parquet": parquet(0, 2),
        "en/train/b.parquet": parquet(2, 2),
        "en/test.parquet": parquet(4, 1),
        "zh/x.parquet": parquet(5, 1),
    }
    push(api, REPO, files)
    with pytest.raises(UserError, match=r"which subset\? It has en, zh; choose with --subset, for the seeds"):
        open_revision(REPO, store, "dataset")
    assert numbers(open_revision(REPO, store, "dataset", choice=Choice("en"))) == [0, 1, 2, 3]
    assert numbers(open_revision(REPO, store, "dataset", choice=Choice("en", "test"))) == [4]
    assert numbers(open_revision(REPO, store, "dataset", choice=Choice("zh"))) == [5]
    push(api, REPO, {"README.md": TWO_SUBSETS.replace("name: zh\n", "name: zh\n  default: true\n").encode()})
    assert numbers(open_revision(REPO, store, "dataset")) == [5]
    splits = "[{split: a, path: en/*.parquet}, {split: b, path: zh/*.parquet}]"
    push(api, REPO, {"README.md": f"---\nconfigs:\n- config_name: en\n  data_files: {splits}\n---\n".encode()})
    with pytest.raises(UserError, match=r"which split\? It has a, b; choose with --split, for the seeds"):
        open_revision(REPO, store, "dataset")


CSV = b"---\nconfigs:\n- config_name: default\n  data_files: rows/*.csv\n  sep: ';'\n---\n"
LINES = b'{"n": 1}\n{"n": 2}\n'


@pytest.mark.parametrize(
    "files",
    [
        {"train.jsonl": LINES, "test.jsonl": b'{"n": 3}\n'},
        {"train.jsonl.gz": gzip.compress(LINES)},
        {"data.json": b'[{"n": 1}, {"n": 2}]'},
        {"a.csv": b"n,m\n1,x\n2,y\n"},
        {"README.md": CSV, "rows/a.csv": b"n;m\n1;x\n", "rows/b.csv": b"n;m\n2;y\n", "notes.csv": b"other"},
        {"only_test.csv": b"n\n1\n2\n", "script.py": b"raise SystemExit"},
    ],
    ids=["jsonl", "gz", "json", "csv", "semicolons", "one split"],
)
def test_other_formats_are_read_as_datasets_reads_them(
    connected: HubServer, api: HfApi, store: Store, tmp_path: Path, files: dict[str, bytes]
) -> None:
    push(api, REPO, files)
    assert numbers(open_revision(REPO, store, "dataset")) == [1, 2]
    # A clone of it is the same dataset.
    clone = write(tmp_path / "clone", files | {".git/train.jsonl": b"{}"})
    assert numbers(open_revision(str(clone), store, "dataset")) == [1, 2]
    assert not [path for path in store.root.rglob("*") if path.name.startswith("tmp")]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a.csv": b""}, "cannot read it"),
        ({"train.jsonl": b'{"n": 1}\n{"n": \n'}, "cannot read it: "),
        ({"train.jsonl": b""}, "cannot read it: a file is empty"),
        ({"cat.png": b"x"}, "no Parquet file in it, nor another table that can be read: .csv"),
        ({"cat.png": b"x", "metadata.csv": b"file_name\ncat.png\n"}, "reads it as imagefolder; tables are needed"),
        ({"README.md": b"---\nconfigs: [\n---\n", "a.csv": b"n\n1\n"}, "cannot read it"),
        ({"README.md": CSV, "a.csv": b"n\n"}, "cannot read it"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, store: Store, files: dict[str, bytes], words: str) -> None:
    clone = write(tmp_path / "clone", files)
    with pytest.raises(UserError) as error:
        open_revision(str(clone), store, "dataset")
    assert words in str(error.value) and "\n" not in str(error.value)
    assert "/dataset" not in str(error.value)  # the folder in which `datasets` looked


@pytest.mark.parametrize("path", ["/etc/*.csv", "../*.csv", "https://example.org/a.csv", "zip://a.csv::b.zip"])
def test_a_card_cannot_lead_out_of_its_dataset(connected: HubServer, api: HfApi, store: Store, path: str) -> None:
    card = f"---\nconfigs:\n- config_name: a\n  data_files:\n  - split: train\n    path: [{path!r}]\n---\n"
    push(api, REPO, {"README.md": card.encode(), "a.csv": b"n\n1\n"})
    with pytest.raises(UserError, match="its card names a file outside of it"):
        open_revision(REPO, store, "dataset")


def test_a_damaged_file_is_named_and_fetched_again(connected: HubServer, api: HfApi, store: Store) -> None:
    push(api, REPO, {"train.parquet": parquet(0, 3)})
    connected.faults.add("resolve_get", "corrupt", path="train.parquet")
    with pytest.raises(UserError, match=r"train\.parquet arrived damaged"):
        open_revision(REPO, store, "dataset")
    assert numbers(open_revision(REPO, store, "dataset")) == [0, 1, 2]


def test_a_folder_in_the_layout_of_the_hub(tmp_path: Path, store: Store) -> None:
    content = {"train": parquet(0, 2), "test": parquet(2, 1)}
    files = {f"data/{split}-00000-of-00001.parquet": rows for split, rows in content.items()}
    clone = write(tmp_path / "a [clone]*", files | {"README.md": b"---\nlicense: mit\n---\n"})
    assert numbers(open_revision(str(clone), store, "dataset")) == [0, 1]
    test = open_revision(str(clone), store, "dataset", choice=Choice(split="test"))
    assert numbers(test) == [2] and test.digest.startswith(test.revision) and len(test.revision) == 40
    # The repository's folder in the Hub's cache, and one of its snapshots.
    cached, commit = tmp_path / "hub" / "datasets--somebody--essays", "0123456789abcdef" * 2 + "01234567"
    shutil.copytree(clone, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    for path in (cached, cached / "snapshots" / commit):
        found = open_revision(str(path), store, "dataset")
        assert (found.repo, found.revision, numbers(found)) == (REPO, commit, [0, 1])


def test_a_dataset_of_this_project_has_one_split(store: Store) -> None:
    from datasets_factory import add_dataset, scores_frame

    made = add_dataset(store, "score", scores_frame())
    assert open_revision(made.repo, store, "dataset", choice=Choice("default", "train")) == made
    with pytest.raises(UserError, match="no split test; it has train alone"):
        open_revision(made.repo, store, "dataset", choice=Choice(split="test"))


def test_tables_of_another_format_are_told(tmp_path: Path, store: Store, progress: pytest.LogCaptureFixture) -> None:
    files = {"a.jsonl": LINES, "b.csv": b"n\n3\n", "LICENSE.txt": b"MIT"}
    clone = write(tmp_path / "clone", files)
    assert numbers(open_revision(str(clone), store, "dataset")) == [1, 2]
    assert "is read as json; other tables are left out: b.csv" in progress.text
