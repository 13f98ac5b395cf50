"""The local store: refs, revisions that never change, one writer."""

import hashlib
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from datasets_factory import add_dataset, add_model, scores_frame

from builders.store.ref import parse_ref
from builders.store.store import Store
from scorers.errors import UserError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_file_or_a_place_that_takes_no_folder_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"store .*file is a file, a folder is needed; give --store another name"):
        Store(tmp_path / "file")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"store .*link is a link to nothing, a folder is needed; give --store another"):
        Store(tmp_path / "link")
    nowhere = Store(Path("/proc/store"))
    with pytest.raises(UserError, match=r"store /proc/store: no folder can be made there"), nowhere.lock():
        raise AssertionError


@pytest.mark.parametrize("revision", ["../x", "..", "a/../b", "/etc/passwd", "a//b", "-f", "a\0b", "", "x" * 200])
def test_a_hostile_revision_is_found_nowhere(tmp_path: Path, revision: str) -> None:
    store = Store(tmp_path / "store")
    found = add_dataset(store, "score", scores_frame())
    (tmp_path / "store" / "x").write_text(found.revision)
    (tmp_path / "store" / "datasets--local--demo-scores" / "x").write_text(found.revision)
    assert store.find(found.repo, revision) is None


@pytest.mark.parametrize("repo", ["../x", "a/b/c", "", "a/..", "/abs", "a\\b/..", "a b"])
def test_a_hostile_repository_name(tmp_path: Path, repo: str) -> None:
    with pytest.raises(UserError, match="is no repository name"):
        Store(tmp_path).repo_path(repo)


def test_refs_move_and_revisions_stay(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.refs("local/demo-scores") == {} and store.latest("local/demo-scores") is None
    first = add_dataset(store, "score", scores_frame())
    second = add_dataset(store, "score", scores_frame(((10, 20),)), round_=2)
    assert store.refs(first.repo) == {
        "main": second.revision,
        "round-001": first.revision,
        "round-002": second.revision,
    }
    assert store.find(first.repo, "round-001") == first == store.find(first.repo, first.revision)
    assert store.find(first.repo, "main") == second
    assert store.find(first.repo, "round-003") is None
    assert store.find(first.repo, "round-001", "model") is None


def test_the_beginning_of_a_commit_finds_it_unless_several_have_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = add_dataset(store, "score", scores_frame(((10, 20),)))
    for digits in (7, 12, 39, 40):
        found = store.find(made.repo, made.revision[:digits])
        assert found is not None and found.revision == made.revision
    assert store.find(made.repo, made.revision[:6]) is store.find(made.repo, "0" * 12) is None
    other = made.path.with_name(made.revision[:12] + "0" * 28)
    other.mkdir()
    assert store.find(made.repo, made.revision[:12]) is None


def test_what_a_ref_stood_for_before_it_moved_stays_findable(tmp_path: Path) -> None:
    from huggingface_hub import scan_cache_dir, snapshot_download

    store = Store(tmp_path)
    frames = [scores_frame(((10 + n, 20),)) for n in range(3)]
    began = datetime.now(UTC).replace(microsecond=0)
    made = [add_dataset(store, "score", frame) for frame in frames]
    add_dataset(store, "score", frames[2])  # stands for the same revision
    repo = made[0].repo
    moves = [move for move in store.moves(repo) if move.ref == "round-001"]
    assert [move.revision for move in moves] == [made[1].revision, made[0].revision]
    assert all(began <= datetime.fromisoformat(move.until) <= datetime.now(UTC) for move in moves)
    assert {(move.repo, move.ref) for move in store.moves(repo)} == {(repo, "main"), (repo, "round-001")}
    assert store.refs(repo) == dict.fromkeys(("main", "round-001"), made[2].revision)

    def folder_of(revision: str) -> str:
        return snapshot_download(
            repo, repo_type="dataset", revision=revision, cache_dir=tmp_path, local_files_only=True
        )

    for move in moves:
        found = store.find(repo, move.revision)
        assert found is not None and found.scan().collect().height == 2
        assert folder_of(move.revision) == str(found.path)
    assert folder_of("round-001") == str(made[2].path)
    (listed,) = scan_cache_dir(tmp_path).repos
    assert {revision.commit_hash for revision in listed.revisions} == {one.revision for one in made}
    assert listed.refs["round-001"].commit_hash == made[2].revision


def test_a_line_that_was_cut_short_stands_for_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.moves("local/none") == []
    made = [add_model(store, "local/demo-policy", round_=2, results={"x": float(n)}) for n in range(2)]
    with (store.repo_path("local/demo-policy", "model") / "refs.log").open("a", encoding="utf-8") as log:
        log.write("2026-01-01T00:0")
    found = store.moves("local/demo-policy", "model")
    assert [(move.ref, move.revision) for move in found] == [
        ("round-002", made[0].revision),
        ("main", made[0].revision),
    ]


def test_the_newest_round_counts_by_number(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = {n: add_model(store, "local/demo-policy", round_=n) for n in (2, 999, 1000, 10)}
    latest = store.latest("local/demo-policy", "model")
    assert latest == made[1000]
    store.set_refs("local/demo-policy", "model", made[2].revision, ["round-2000x", "v1/beta"])
    assert store.latest("local/demo-policy", "model") == made[1000]
    assert store.refs("local/demo-policy", "model")["v1/beta"] == made[2].revision


def test_main_serves_where_there_is_no_round(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = add_model(store, "local/demo-sft", round_=0)
    (store.repo_path("local/demo-sft", "model") / "refs" / "round-000").unlink()
    assert store.latest("local/demo-sft", "model") == made


def test_a_reference_is_looked_up_by_what_it_says(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = add_dataset(store, "score", scores_frame())
    second = add_dataset(store, "score", scores_frame(((10, 20),)), round_=2)
    assert store.lookup(parse_ref("local/demo-scores")) == second  # the newest round
    assert store.lookup(parse_ref("local/demo-scores@round-001")) == first
    assert store.lookup(parse_ref(f"local/demo-scores@{first.revision}")) == first
    assert store.lookup(parse_ref("local/demo-scores@main")) == second
    assert store.lookup(parse_ref("local/demo-scores@round-003")) is None
    assert store.lookup(parse_ref("local/demo-other")) is None


def test_a_dataset_comes_before_a_model_of_the_same_name(tmp_path: Path) -> None:
    store = Store(tmp_path)
    model = add_model(store, "local/demo", round_=2)
    assert store.lookup(parse_ref("local/demo")) == model == store.lookup(parse_ref("local/demo@main"))
    dataset = add_dataset(store, "score", scores_frame(), repo="local/demo")
    for text in ("local/demo", "local/demo@main"):
        assert store.lookup(parse_ref(text)) == dataset == store.lookup(parse_ref(text), "dataset")
        assert store.lookup(parse_ref(text), "model") == model
    # A revision that only the model has is the model's.
    assert store.lookup(parse_ref("local/demo@round-002")) == model
    assert store.lookup(parse_ref("local/demo@round-002"), "dataset") is None


def test_a_revision_of_format_1_keeps_its_name(tmp_path: Path) -> None:
    """A revision is named by the bytes of its manifest, which are read as format 2 and stay format 1."""
    store = Store(tmp_path)
    made = add_dataset(store, "score", scores_frame())
    assert made.manifest is not None
    value = json.loads(made.manifest.to_json()) | {"format": 1}
    for name in ("pipeline", "execution", "bytes_depend_on"):
        del value[name]
    text = json.dumps(value, sort_keys=True, indent=1) + "\n"
    (made.path / "manifest.json").write_text(text, encoding="utf-8")
    name = hashlib.sha1(text.encode()).hexdigest()
    made.path.rename(made.path.with_name(name))
    store.set_refs(made.repo, "dataset", name, ["round-001"])
    found = store.find(made.repo, "round-001")
    assert found is not None and found.manifest is not None
    assert found.revision == name != found.manifest.revision
    assert found.made_here and found.digest == made.digest


def test_adding_an_equal_revision_keeps_the_first(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = add_dataset(store, "score", scores_frame())
    before = {path: path.stat().st_mtime_ns for path in first.path.rglob("*")}
    again = add_dataset(store, "score", scores_frame())
    assert again == first
    assert {path: path.stat().st_mtime_ns for path in first.path.rglob("*")} == before
    assert not (tmp_path / ".staged").exists()
    assert len(list(first.path.parent.iterdir())) == 1


def test_a_ref_that_is_broken_stands_for_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = add_dataset(store, "score", scores_frame())
    refs = store.repo_path(made.repo) / "refs"
    (refs / "main").write_text("../../../etc")
    (refs / "round-001").write_text(COMMIT)
    assert store.find(made.repo, "main") is None and store.find(made.repo, "round-001") is None


def test_one_writer_at_a_time_and_a_dead_one_lets_go(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from builders.store.store import Store
with Store(Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.read()
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    with pytest.raises(UserError, match=r"is in use by another run; wait .* or give --store"), Store(tmp_path).lock():
        raise AssertionError("two writers")
    holder.kill()
    holder.communicate()
    with Store(tmp_path).lock():
        assert (tmp_path / ".lock").exists()


def test_a_ref_of_any_bytes_names_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = add_dataset(store, "score", scores_frame())
    (store.repo_path(made.repo) / "refs" / "main").write_bytes(b"\xbb\xff")
    assert store.find(made.repo, "main") is None and store.refs(made.repo)["main"] == "\ufffd\ufffd"
