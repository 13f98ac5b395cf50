"""What a misspelt REF may have meant: the repositories, rounds and stages whose names are near."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Sequence

from builders.store.manifest import Kind
from builders.store.store import KINDS, Store
from scorers.errors import UserError

CLOSE = 0.6  # share of common characters from which two names count as near, as difflib measures it


@contextlib.contextmanager
def naming_near(text: str, store: Store, kinds: Sequence[Kind] = KINDS, others: Iterable[str] = ()) -> Iterator[None]:
    """Let the error about a REF that nothing stands for name what is near.

    Args:
        text: the REF.
        store: its repositories and rounds are known.
        kinds: the kinds that are wanted.
        others: further names that could stand there, such as those of stages.

    Raises:
        UserError: the same one, with the near names at its end.
    """
    try:
        yield
    except UserError as error:
        near = near_names(text, store, kinds, others)
        if not near or near in str(error):
            raise
        raise type(error)(f"{error}; {near}") from None


def near_names(text: str, store: Store, kinds: Sequence[Kind] = KINDS, others: Iterable[str] = ()) -> str:
    """Return what a REF that nothing stands for may have meant, as a clause; empty where nothing is near."""
    repo, at, revision = text.partition("@")
    held = {kind: repositories(store, kind) for kind in KINDS}
    kind = next((kind for kind in kinds if repo in held[kind]), None)
    if kind is not None:
        refs = list(store.refs(repo, kind))
        if not at or revision in refs:
            return ""
        near = difflib.get_close_matches(revision, refs, n=3, cutoff=CLOSE) or refs[-3:]
        return f"the store has {repo} at {', '.join(near)}" if near else ""
    other = next((kind for kind in KINDS if repo in held[kind]), None)
    if other is not None:
        return f"in the store {repo} is a {other}"
    names = {name.rpartition("/")[2]: name for kind in kinds for name in held[kind]}
    names |= {name: name for name in (*names.values(), *others)}
    near = difflib.get_close_matches(repo, names, n=1, cutoff=CLOSE)
    return f"did you mean {names[near[0]]}?" if near else ""


def repositories(store: Store, kind: Kind) -> list[str]:
    """Return the names of the repositories of one kind that a store holds, sorted."""
    prefix = f"{kind}s--"
    if not store.root.is_dir():
        return []
    # The Hub allows no "--" in a name, so the first one stands for the slash.
    found = (path.name.removeprefix(prefix) for path in store.root.iterdir() if path.name.startswith(prefix))
    return sorted(name.replace("--", "/", 1) for name in found)
