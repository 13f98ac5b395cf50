"""What is opened is compared with its manifest: names and sizes every time, every byte once."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets_factory import add_dataset, add_model, scores_frame

from builders.hub.refs import open_here, open_revision
from builders.store.files import file_sha256
from builders.store.manifest import content_digest, describe_files
from builders.store.revision import Revision
from builders.store.store import Store
from scorers.errors import UserError

SHARD = "data/train-00001-of-00004.parquet"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def scores(store: Store) -> Revision:
    return add_dataset(store, "score", scores_frame(), shards=(2, 2, 2, 2))


def flip(path: Path, *, unseen: bool = False) -> None:
    """Change one byte; `unseen` puts the time of change back."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    if unseen:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def notes(store: Store) -> list[Path]:
    return sorted((store.root / ".work" / "checked").iterdir())


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def add(path: Path) -> None:
    shutil.copy(path, path.with_name("more.parquet"))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (remove, f"{SHARD} is missing"),
        (cut, f"{SHARD} is damaged: it has"),
        (flip, f"{SHARD} is damaged: its SHA-256 is not the manifest's"),
        (add, "data/more.parquet is not named in its manifest"),
    ],
)
def test_a_damaged_revision_is_not_opened(
    store: Store, scores: Revision, change: Callable[[Path], None], fault: str
) -> None:
    assert open_revision(str(scores), store) == scores
    change(scores.path / SHARD)
    with pytest.raises(UserError) as error:
        open_revision(str(scores), store)
    said = str(error.value)
    assert said.startswith(f"dataset {scores}: {fault}") and "\n" not in said
    assert f"`grace verify {scores}`" in said and said.endswith(f"delete {scores.path} and build it again")
    # What only looks at local data opens it as it lies there.
    assert open_here(str(scores), store) == scores


def test_the_files_of_a_model(store: Store) -> None:
    model = add_model(store, "local/demo-policy")
    flip(model.path / "model.safetensors")
    with pytest.raises(UserError, match=rf"^model {model}: model\.safetensors is damaged: its SHA-256"):
        open_revision(str(model), store)
    (model.path / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json is missing"):
        open_revision(str(model), store)


def test_the_way_out_of_a_pulled_revision_is_to_pull_it_again(store: Store, scores: Revision) -> None:
    model = add_model(store, "alice/demo-policy")
    for made, words in ((add_dataset(store, "score", scores_frame(), repo="alice/x"), ""), (model, " --model")):
        assert made.manifest is not None
        pulled = Revision(made.repo, COMMIT, made.path.with_name(COMMIT), made.manifest)
        made.path.rename(pulled.path)
        store.require_whole(pulled)
        (pulled.path / made.manifest.files[0].path).unlink()
        with pytest.raises(UserError, match=rf"; `grace pull{words} {pulled}` fetches it again; or delete "):
            store.require_whole(pulled)


def test_a_revision_elsewhere_is_checked_too(store: Store, scores: Revision, tmp_path: Path) -> None:
    shutil.copytree(scores.path, tmp_path / "copy")
    assert open_revision(str(tmp_path / "copy"), store).digest == scores.digest
    flip(tmp_path / "copy" / SHARD)
    with pytest.raises(
        UserError, match=rf"{SHARD} is damaged: .* `grace verify {tmp_path}/copy` .*; give a whole copy$"
    ):
        open_revision(str(tmp_path / "copy"), store)


def test_other_peoples_data_has_nothing_to_compare_with(store: Store, tmp_path: Path) -> None:
    scores_frame().write_parquet(tmp_path / "rows.parquet")
    store.require_whole(open_revision(str(tmp_path / "rows.parquet"), store))
    assert not store.root.exists()


def test_every_byte_is_read_once(store: Store, scores: Revision) -> None:
    """A change that leaves size, time and inode alone is not looked for again; `grace verify` reads every byte."""
    for note in notes(store):
        note.unlink()
    store.require_whole(scores)
    flip(scores.path / SHARD, unseen=True)
    store.require_whole(scores)
    for note in notes(store):
        note.unlink()
    with pytest.raises(UserError, match="is damaged"):
        store.require_whole(scores)
    assert notes(store) == []


def test_what_was_just_built_needs_no_second_reading(store: Store, scores: Revision) -> None:
    flip(scores.path / SHARD, unseen=True)
    store.require_whole(scores)
    (note,) = notes(store)
    note.unlink()
    with pytest.raises(UserError, match="is damaged"):  # read now, since nothing says that it was read before
        store.require_whole(scores)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"data/x": 1}'])
def test_a_damaged_note_counts_for_nothing(store: Store, scores: Revision, text: str) -> None:
    (note,) = notes(store)
    whole = note.read_text()
    flip(scores.path / SHARD, unseen=True)
    note.write_text(text)
    with pytest.raises(UserError, match="is damaged"):
        store.require_whole(scores)
    assert json.loads(whole).keys() > {SHARD, "manifest.json"}


def test_a_copied_store_is_checked_anew(store: Store, scores: Revision, tmp_path: Path) -> None:
    shutil.copytree(store.root, tmp_path / "copy")
    copy = Store(tmp_path / "copy")
    flip(tmp_path / "copy" / scores.path.relative_to(store.root) / SHARD, unseen=True)
    with pytest.raises(UserError, match="is damaged"):
        open_revision(str(scores), copy)
    store.require_whole(scores)


def test_a_store_that_cannot_be_written_to_is_read(store: Store, scores: Revision) -> None:
    for note in notes(store):
        note.unlink()
    (store.root / ".work" / "checked").rmdir()
    (store.root / ".work" / "checked").write_text("in the way")
    store.require_whole(scores)
    flip(scores.path / SHARD)
    with pytest.raises(UserError, match="is damaged"):
        store.require_whole(scores)


def test_a_local_revision_without_its_own_manifest(store: Store, scores: Revision) -> None:
    path = scores.path / "manifest.json"
    text = path.read_text()
    path.write_text(text.replace('"round": 1', '"round": 7'))
    with pytest.raises(UserError, match=r"manifest\.json is damaged: its SHA-1 is not the revision's name; .* delete"):
        open_revision(str(scores), store)
    path.unlink()
    with pytest.raises(UserError, match=rf"^{scores}: manifest\.json is missing; .* delete"):
        open_revision(str(scores), store)


@pytest.mark.parametrize("damage", [remove, cut, flip, add])
@pytest.mark.parametrize("name", [SHARD, "manifest.json"])
def test_a_whole_revision_takes_the_place_of_a_damaged_one(
    store: Store, scores: Revision, name: str, damage: Callable[[Path], None]
) -> None:
    inode = (scores.path / SHARD).stat().st_ino
    if (name, damage) == ("manifest.json", add):
        (scores.path / name).write_text("{}")
    else:
        damage(scores.path / name)
    again = add_dataset(store, "score", scores_frame(), shards=(2, 2, 2, 2))
    assert again == scores == open_revision(str(scores), store)
    assert (scores.path / SHARD).stat().st_ino != inode
    assert [path.name for path in (store.root / ".work").iterdir()] == ["checked"]


def a_model(folder: Path) -> Path:
    """A folder that another program wrote."""
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "sub" / "weights").write_bytes(b"x" * 1000)
    return folder


def test_a_folder_without_a_manifest_is_hashed_once(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = a_model(tmp_path / "model")
    expected = content_digest(describe_files(folder, [folder / "sub" / "weights", folder / "config.json"]))
    assert store.digest_of(folder) == expected
    read: list[Path] = []

    def noting(path: Path) -> str:
        read.append(path)
        return file_sha256(path)

    monkeypatch.setattr("builders.store.manifest.file_sha256", noting)
    assert store.digest_of(folder) == expected and not read
    # Another byte, a file more, a file less: read again.
    flip(folder / "sub" / "weights")
    changed = store.digest_of(folder)
    (folder / "more").write_text("y")
    assert len({expected, changed, store.digest_of(folder)}) == 3 and len(read) == 5
    (folder / "more").unlink()
    assert store.digest_of(folder) == changed
    notes(store)[0].write_text("[")  # a damaged note
    assert store.digest_of(folder) == changed


def test_a_copy_of_a_folder_has_the_same_digest(store: Store, tmp_path: Path) -> None:
    folder = a_model(tmp_path / "model")
    shutil.copytree(folder, tmp_path / "copy")
    assert store.digest_of(folder) == store.digest_of(tmp_path / "copy")
