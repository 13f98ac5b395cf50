"""A revision on disk: one dataset or one model, its files, and its columns."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from builders.store.manifest import FILE_NAME, Manifest, content_digest, describe_files
from builders.store.ref import is_local
from scorers.errors import UserError


@dataclass(frozen=True)
class Choice:
    """The part of a dataset that is wanted; the names are those of its card or of its files, as `datasets` has them.

    Attributes:
        subset: a configuration; None for the default one, or the only one.
        split: a split; None for `train`, or the only one.
    """

    subset: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class Revision:
    """One dataset or model on disk.

    Attributes:
        repo: the repository.
        revision: its 40-hex name.
        path: the snapshot folder, any folder, or a single file.
        manifest: None for data that this project did not make.
        files: the Parquet files of one split below `path`; empty for all that lie there.
        part: subset and split of `files`, as far as they are not `default` and `train`.
    """

    repo: str
    revision: str
    path: Path
    manifest: Manifest | None
    files: tuple[Path, ...] = ()
    part: Choice = Choice()

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}"

    @property
    def local(self) -> bool:
        """Whether its name says that it does not come from the Hub."""
        return is_local(self.repo)

    @property
    def made_here(self) -> bool:
        """Whether it was built in a local store: its name is its manifest's SHA-1, not a Hub commit."""
        path = self.path / FILE_NAME
        return path.is_file() and hashlib.sha1(path.read_bytes()).hexdigest() == self.revision

    def data_files(self) -> list[Path]:
        """Return the Parquet files in their stable order.

        Raises:
            UserError: where there is none.
        """
        if self.files:
            return list(self.files)
        if self.path.is_file():
            return [self.path]
        files = _files(self.path / "data", "*.parquet") or _files(self.path, "**/*.parquet")
        if not files:
            raise UserError(f"{self}: no Parquet file in it; a dataset of this project has data/train-*.parquet")
        return files

    def scan(self) -> pl.LazyFrame:
        """Return all rows as a lazy frame.

        Raises:
            UserError: as `schema`.
        """
        files = self.data_files()
        # polars takes the first file's types for all: another file may have wider ones, or values where it has none.
        # The files of this project's own datasets are alike, and there may be thousands of them.
        schema = self.schema() if self.manifest is None and len(files) > 1 else None
        wider = pl.ScanCastOptions(integer_cast="upcast", float_cast="upcast")
        return pl.scan_parquet(files, glob=False, schema=schema, cast_options=wider)  # a name may hold [ or *

    def schema(self) -> pl.Schema:
        """Return the columns, which all files share.

        Of integers and of floats of several widths the widest counts; type Null, all values null, yields to any other.

        Raises:
            UserError: for a file that is not readable as Parquet, and for files whose columns differ.
        """
        files = self.data_files()
        found = _file_schema(files[0])
        for file in files[1:]:
            other = _file_schema(file)
            common = {name: _common(found.get(name), other.get(name)) for name in (*found, *other)}
            if differ := sorted(name for name, dtype in common.items() if dtype is None):
                raise UserError(
                    f"{self}: {file.name} and {files[0].name} differ in {', '.join(differ)}; make them alike"
                )
            found |= {name: dtype for name, dtype in common.items() if dtype is not None}
        return pl.Schema(found)

    @property
    def digest(self) -> str:
        """Content digest: the manifest's, or computed from the files where there is no manifest."""
        if self.manifest is not None:
            return self.manifest.digest
        root = self.path if self.path.is_dir() else self.path.parent
        return content_digest(describe_files(root, self.data_files()))


def _files(folder: Path, pattern: str) -> list[Path]:
    """Return the files below a folder that match a pattern, sorted; folders of such names are none."""
    return sorted(path for path in folder.glob(pattern) if path.is_file())


def _common(a: pl.DataType | None, b: pl.DataType | None) -> pl.DataType | None:
    """Return the type that holds a column's values of two files; None where they do not agree or one lacks the column.

    They agree where they are equal, where one is Null, and where both are integers or both are floats.
    """
    if a is None or b is None or a == b:
        return a if a == b else None
    if pl.Null in (a, b):
        return b if a == pl.Null else a
    if (a.is_integer() and b.is_integer()) or (a.is_float() and b.is_float()):
        empty = [pl.DataFrame(schema={"x": dtype}) for dtype in (a, b)]
        return pl.concat(empty, how="vertical_relaxed").schema["x"]  # the type that holds both
    return None


def _file_schema(file: Path) -> dict[str, pl.DataType]:
    """Read the columns of one Parquet file.

    Raises:
        UserError: for a file that is not readable as Parquet.
    """
    try:
        # Not by polars' own function: it takes [ and * in a name for a pattern.
        return dict(pl.scan_parquet(file, glob=False).collect_schema())
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{file}: not readable as Parquet: {' '.join(str(error).split())}; give it again") from None
