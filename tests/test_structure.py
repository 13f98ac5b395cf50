"""The house: what may import what, and that no common module knows a pipeline."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("scorers", "builders", "training")
PIPELINES = ("grace_kto", "writingbench", "rationalign")
#: The only modules that see all pipelines: the literal tuple of them.
LISTS = {"training.pipelines"}


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path) -> Iterator[str]:
    """Modules of ours that a module imports anywhere, at its head or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: a relative import"
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (n for n in names if n.partition(".")[0] in PACKAGES)


def room(module: str) -> str:
    """A module's package: builders.store, training.kto, …; a package's own modules stand for themselves."""
    parts = module.split(".")
    folder = ROOT.joinpath(*parts[:2])
    return ".".join(parts[:2]) if len(parts) > 1 and folder.is_dir() else module


MODULES = modules()


def is_of_pipeline(module: str) -> bool:
    return any(part in PIPELINES for part in module.split("."))


@pytest.mark.parametrize("module", sorted(name for name in MODULES if not is_of_pipeline(name) and name not in LISTS))
def test_no_common_module_imports_a_pipelines(module: str) -> None:
    found = {name for name in imports(module, MODULES[module]) if is_of_pipeline(name)}
    assert not found


@pytest.mark.parametrize("module", sorted(MODULES))
def test_dependencies_point_one_way(module: str) -> None:
    floor = PACKAGES.index(module.partition(".")[0])
    upward = {name for name in imports(module, MODULES[module]) if PACKAGES.index(name.partition(".")[0]) > floor}
    assert not upward
    importing_it = "training.cli" in set(imports(module, MODULES[module]))
    assert importing_it == (module == "training.entry"), "what the programs start is all that imports the command line"


def test_the_graph_of_packages_has_no_circle() -> None:
    graph: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        used = {room(found) for found in imports(name, path) if found in MODULES}
        graph.setdefault(room(name), set()).update(used - {room(name)})
    for package in PACKAGES:  # importing a package's module loads the package, which imports nothing at its head
        graph.pop(package, None)
    try:
        order = list(TopologicalSorter({room_: used - set(PACKAGES) for room_, used in graph.items()}).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
    assert order.index("builders.store") < order.index("builders.core") < order.index("builders.grace_kto")


def test_the_tree_in_the_readme_names_every_room() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rooms = {path.parent.name for path in MODULES.values() if path.parent.parent.name in PACKAGES}
    assert [name for name in sorted(rooms) if f"{name}/" not in text] == []
