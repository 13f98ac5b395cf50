"""The layout of a dataset on the Hub: which files make up which split of which subset, as `datasets` finds them.

`datasets` reads the `configs:` of the card, and else the names of the files. Here it does so in a folder of empty files
with the dataset's names, so that nothing but the cards has to be on this machine, and no code of a dataset ever is.
"""

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import yaml

from builders.hub.client import masked, short
from builders.store.revision import Choice
from scorers.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import datasets

log = logging.getLogger(__name__)

CARDS = ("README.md", ".huggingface.yaml", "dataset_infos.json")
"""The files that may say how a dataset is laid out."""
TABLES = (".parquet", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".txt", ".arrow")
"""Endings of the files that can be read, also with one more for their compression."""
_SURELY_TABLES = {".parquet", ".csv", ".tsv", ".jsonl", ".arrow"}  # .json and .txt may be anything
# What `datasets` and what it calls raise for data that they cannot read.
_UNREADABLE = (yaml.YAMLError, ValueError, LookupError, TypeError, RuntimeError, OSError, StopIteration)
_FORMATS = ("parquet", "csv", "json", "text", "arrow")  # what `datasets` calls them
DEFAULT = Choice("default", "train")
"""How `datasets` calls the only subset and the only split."""
_OUTSIDE = ("://", "::")  # an address, or a file inside another


@dataclass(frozen=True)
class Part:
    """One split of one subset.

    Attributes:
        subset: its name; `default` where the card names none.
        split: its name.
        format: what `datasets` reads it as, such as `parquet`.
        files: its files, relative to the dataset, in their order.
    """

    subset: str
    split: str
    format: str
    files: tuple[str, ...]

    @property
    def choice(self) -> Choice:
        """Subset and split, as far as they are not `default` and `train`."""
        return Choice(
            None if self.subset == DEFAULT.subset else self.subset, None if self.split == DEFAULT.split else self.split
        )


def is_table(name: str) -> bool:
    """Whether a file can be a table, by its ending.

    >>> is_table("en/train.jsonl.gz"), is_table("cat.png")
    (True, False)
    """
    return any(ending in TABLES for ending in PurePosixPath(name.lower()).suffixes[-2:])


def _format_of(name: str) -> str:
    """Return the ending that makes a file a table, such as `.jsonl` of `train.jsonl.gz`; empty where it has none."""
    return next((ending for ending in reversed(PurePosixPath(name.lower()).suffixes) if ending in TABLES), "")


def find_part(names: Iterable[str], cards: Mapping[str, bytes], choice: Choice, what: str) -> Part:
    """Find the files of one split of a dataset.

    Args:
        names: all files, relative to the dataset.
        cards: those of `CARDS` that it has, with their content.
        choice: the subset and the split that are wanted.
        what: names the dataset in error messages.

    Raises:
        UserError: for a dataset that is not a table or that `datasets` cannot read, a subset or a split that it does
            not have, and where there are several and none was chosen.
    """
    names = list(names)
    if not any(is_table(name) for name in names):
        raise UserError(f"{what}: no Parquet file in it, nor another table that can be read: {', '.join(TABLES[1:])}")
    _require_inside(cards, what)
    with _skeleton(names, cards, what) as root:
        builder = _builder(root, choice.subset, what)
        if builder.name not in _FORMATS:
            raise UserError(f"{what}: `datasets` reads it as {builder.name}; tables are needed: {', '.join(_FORMATS)}")
        splits = {str(split): files for split, files in (builder.config.data_files or {}).items()}
        only = next(iter(splits)) if len(splits) == 1 else "train"
        split = choice.split or only
        if split not in splits:
            raise UserError(_choice_fault("split", choice.split, list(splits), what))
        found = [_relative(file, root, what) for file in splits[split]]
    if not found:
        raise UserError(f"{what}: split {split} has no file")
    read = {_format_of(name) for name in found}
    if others := sorted(name for name in names if is_table(name) and _format_of(name) in _SURELY_TABLES - read):
        log.warning("%s: is read as %s; other tables are left out: %s", what, builder.name, short(", ".join(others)))
    return Part(builder.config.name, split, builder.name, tuple(found))


def write_parquet(part: Part, folder: Path, names: Sequence[str], target: Path, what: str) -> None:
    """Write a part as Parquet files into a folder that does not exist yet, as `datasets` reads it, piece by piece.

    Args:
        part: the part; its files lie in `folder`.
        folder: the dataset on this machine.
        names: all files of the dataset, relative to it; those of other parts need not be there.
        target: folder to make; it appears when it is whole.
        what: names the dataset in error messages.

    Raises:
        UserError: for data that `datasets` cannot read.
    """
    import datasets

    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target: a rename is atomic only within a file system.
    with (
        tempfile.TemporaryDirectory(dir=target.parent) as scratch,
        _skeleton(names, cards_of(folder, names), what) as root,
        _told(what, root),
    ):
        builder = _builder(root, part.subset, what, cache=f"{scratch}/cache")
        for name in part.files:
            (root / name).unlink()
            (root / name).symlink_to((folder / name).resolve())
        builder.config.data_files = {part.split: builder.config.data_files[part.split]}
        builder.download_and_prepare(
            f"{scratch}/part",
            file_format="parquet",
            # The card's numbers of rows are those of all splits.
            verification_mode="no_checks",
            download_config=datasets.DownloadConfig(cache_dir=f"{scratch}/unpacked"),
        )
        try:
            Path(scratch, "part").rename(target)
        except OSError:
            if not target.is_dir():  # else another process was faster, with the same rows
                raise


def cards_of(folder: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Return those of `CARDS` that are among a dataset's files and that its folder has, with their content."""
    return {name: (folder / name).read_bytes() for name in CARDS if name in names and (folder / name).is_file()}


def _builder(root: Path, subset: str | None, what: str, cache: str | None = None) -> "datasets.DatasetBuilder":
    """Return the builder of a subset; None for the default one, or the only one.

    Raises:
        UserError: for a subset that is not there, and where there are several and none was chosen.
    """
    import datasets

    with _told(what, root):
        try:
            return datasets.load_dataset_builder(str(root), subset, cache_dir=cache or str(root.parent / "cache"))
        except ValueError:
            # Asked only now: with thousands of files each look at the layout takes seconds.
            names = [str(name) for name in datasets.get_dataset_config_names(str(root))]
            if subset in names or (subset is None and len(names) < 2):
                raise
    raise UserError(_choice_fault("subset", subset, names, what))


def _choice_fault(kind: str, wanted: str | None, found: Sequence[str], what: str) -> str:
    """Return what is wrong with the choice of a subset or a split: it is not there, or there are several."""
    way_out = f"choose with --{kind}, for the seeds with seed.{kind}, for evaluate.source with evaluate.{kind}"
    listed = short(", ".join(found)) or "none"
    if wanted is None:
        return f"{what}: which {kind}? It has {listed}; {way_out}"
    return f"{what}: no {kind} {wanted}{did_you_mean(wanted, found)}; it has {listed}; {way_out}"


@contextlib.contextmanager
def _skeleton(names: Iterable[str], cards: Mapping[str, bytes], what: str) -> Iterator[Path]:
    """Yield a folder of empty files with a dataset's names, and with its cards."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve() / "dataset"
        root.mkdir()
        try:
            for name in names:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).touch()
            for name, content in cards.items():
                (root / name).write_bytes(content)
        except OSError as error:  # such as a file that is another one's folder, or a name that is too long
            raise UserError(f"{what}: its files cannot lie in one folder: {error.strerror}: {name}") from None
        yield root


def _relative(file: str, root: Path, what: str) -> str:
    """Return a file of the skeleton relative to it.

    Raises:
        UserError: for a file outside of it.
    """
    path = Path(os.path.normpath(file))
    if not path.is_relative_to(root):
        raise UserError(f"{what}: its card names a file outside of it; give another dataset")
    return path.relative_to(root).as_posix()


def _require_inside(cards: Mapping[str, bytes], what: str) -> None:
    """Check that the cards name no file elsewhere: `datasets` would read any path and any address.

    Raises:
        UserError: naming the first such path.
    """
    for text in _texts([_metadata(name, content) for name, content in cards.items() if not name.endswith(".json")]):
        parts = PurePosixPath(text).parts
        if any(mark in text for mark in _OUTSIDE) or text.startswith(("/", "~")) or ".." in parts:
            raise UserError(f"{what}: its card names a file outside of it: {short(text)}; give another dataset")


def _metadata(name: str, content: bytes) -> object:
    """Return the `configs:` of a card; None for one that cannot be read, which `datasets` tells of."""
    text = content.decode("utf-8-sig", errors="replace")
    if name.endswith(".md"):
        head = text.split("---", 2)
        text = head[1] if len(head) == 3 and not head[0].strip() else ""
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        return None
    return value.get("configs") if isinstance(value, dict) else None


def _texts(value: object) -> Iterator[str]:
    """Yield the paths in a card's configs: the values of `data_files`, `data_dir` and `path`, at any depth."""
    waiting: list[tuple[object, bool]] = [(value, False)]
    seen: set[tuple[int, bool]] = set()
    while waiting:
        item, is_path = waiting.pop()
        if isinstance(item, str) and is_path:
            yield item
        # YAML's aliases can make a list its own item.
        elif (id(item), is_path) in seen:
            continue
        elif isinstance(item, dict):
            inside = ("data_files", "data_dir", "path")
            waiting += [(below, is_path or key in inside) for key, below in item.items()]
        elif isinstance(item, list):
            waiting += [(below, is_path) for below in item]
        seen.add((id(item), is_path))


@contextlib.contextmanager
def _told(what: str, root: Path) -> Iterator[None]:
    """Tell in one line what `datasets` cannot read in a skeleton, and show its progress on a terminal only.

    Raises:
        UserError: for data or a card that it cannot read.
    """
    import datasets
    from datasets.exceptions import DatasetsError

    hidden = datasets.are_progress_bars_disabled()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        yield
    except (*_UNREADABLE, DatasetsError) as error:
        # The generation error says nothing; its cause does. A file without a line stops the reader's iterator.
        cause = error.__cause__ or error
        said = "a file is empty" if isinstance(cause, StopIteration) else str(cause) or type(cause).__name__
        said = short(said.replace(f"{root}/", "").replace(str(root), "its folder"))
        raise UserError(masked(f"{what}: `datasets` cannot read it: {said}")) from None
    finally:
        if not hidden:
            datasets.enable_progress_bars()
