"""What `scorers` offers: names that load late, examples that run, texts scored in a few lines."""

import doctest
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest

import scorers

MODULES = sorted(module.name for module in iter_modules(scorers.__path__, "scorers."))


def test_importing_the_package_loads_none_of_the_libraries(tmp_path: Path) -> None:
    code = "import sys, scorers; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert not {"numpy", "polars", "torch", "transformers", "FlagEmbedding"} & set(done.stdout.split())


@pytest.mark.parametrize("before", ["sys", ", ".join(MODULES)], ids=["first", "after its modules"])
def test_every_name_is_what_its_module_defines(tmp_path: Path, before: str) -> None:
    """`diversity` is the function and never the module of this name, whatever was imported before."""
    code = f"""
import {before}
from scorers import *
import scorers
for name in scorers.__all__:
    value = globals()[name]
    assert callable(value) and value.__name__ == name and value.__module__.startswith("scorers."), name
    assert name in dir(scorers) and getattr(scorers, name) is value
print(len(scorers.__all__))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{len(scorers.__all__)}\n"), done.stderr


def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(AttributeError, match="module 'scorers' has no attribute 'divresity'"):
        getattr(scorers, "divresity")  # noqa: B009
    with pytest.raises(ImportError, match="cannot import name 'divresity'"):
        exec("from scorers import divresity")  # noqa: S102


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    assert doctest.testmod(import_module(name)).failed == 0


def test_scoring_a_list_of_texts(causal_lm_dir: Path, bge_m3_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The example of the package's docstring, as it stands there."""
    example = scorers.__doc__.split("::\n\n")[1].split("\n\n")
    lines = [line.strip() for line in "\n".join(example[:2]).splitlines() if line.strip()]
    assert len(lines) <= 8
    texts = ["The harbour grew. The harbour grew. The harbour grew.", "Prices fell, then rose.", "a"]
    names: dict[str, object] = {"texts": texts, "queries": ["River trade?"] * 3, "bge_m3": bge_m3_dir}
    exec("\n".join(lines), names | dict.fromkeys(("policy", "general_model", "domain_model"), causal_lm_dir))  # noqa: S102
    printed = capsys.readouterr().out
    assert printed.count("[") == 4 and "0.0, 0.0, None]" in printed
