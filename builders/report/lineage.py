"""A lineage as a table for people: one row per revision, whatever was made from it."""

from collections import Counter
from collections.abc import Iterable, Sequence

from builders.inspect.lineage import EXTERNAL, FOUND, Node
from scorers.errors import plain


def lineage_rows(nodes: Sequence[Node]) -> list[tuple[str, str, int | str, str]]:
    """Return one row per revision, each above what it was made from: name, revision, rows, and names of those.

    A name is the stage with its round, such as `policy 3`, where no other revision has the same one, else the beginning
    of the revision.
    """
    by_id = {node.id: node for node in nodes}
    names = _names(nodes)
    return [
        (
            "" if node.stage is None else plain(names[node.id]),
            plain(f"{node.repo}@{node.revision[:12]}"),
            "" if node.rows is None else node.rows,
            plain(_made_from(node, by_id, names)),
        )
        for node in from_the_last(nodes)
    ]


def from_the_last(nodes: Sequence[Node]) -> list[Node]:
    """Return the nodes so that each stands above all that it was made from; a circle is cut where it closes."""
    by_id = {node.id: node for node in nodes}
    order: list[Node] = []
    state: dict[str, bool] = {}  # whether a node's own parents are all placed
    # A list instead of recursion: a lineage may be deeper than Python's stack.
    waiting = [nodes[0].id]
    while waiting:
        id_ = waiting[-1]
        if id_ in state:
            if not state[id_]:
                state[id_] = True
                order.append(by_id[id_])
            waiting.pop()
            continue
        state[id_] = False
        waiting += [below for _, below in _links(by_id[id_]) if below not in state]
    return order[::-1]


def _names(nodes: Sequence[Node]) -> dict[str, str]:
    """Return a short name of each revision by its id."""
    short = {node.id: node.repo if node.stage is None else f"{node.stage} {node.round or ''}".strip() for node in nodes}
    counted = Counter(short.values())
    return {
        node.id: short[node.id] if counted[short[node.id]] == 1 else f"{short[node.id]} {node.revision[:12]}"
        for node in nodes
    }


def _made_from(node: Node, by_id: dict[str, Node], names: dict[str, str]) -> str:
    """Return what a revision was made from in a few words, and its state where it is not simply there."""
    parts = []
    rounds: dict[str, list[int]] = {}
    for role, id_ in _links(node):
        above = by_id[id_]
        if above.stage is not None and above.round and role.partition(" ")[0] == above.stage and role != above.stage:
            rounds.setdefault(above.stage, []).append(above.round)
        elif role in (above.stage, names[id_]):
            parts.append(names[id_])
        else:
            parts.append(f"{role}: {names[id_]}")
    parts += [f"{stage} {spans(found)}" for stage, found in rounds.items()]
    said = ", ".join(parts)
    return said if node.state in (FOUND, EXTERNAL) else f"({node.state}) {said}".strip()


def spans(numbers: Iterable[int]) -> str:
    """Return whole numbers with neighbours joined.

    >>> spans([1, 2, 3, 5])
    '1–3, 5'
    """
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in found)


def _links(node: Node) -> list[tuple[str, str]]:
    """Return roles with the revisions that fill them; a model made by a stage is left out of the parents."""
    in_roles = set(node.models.values())
    return [*((name, id_) for name, id_ in node.parents.items() if id_ not in in_roles), *node.models.items()]
