"""A revision is assembled from whole parts: a model that lacks a file never gets into the store."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from toy_pipeline import TOY, toy_config

import builders.core.assemble
from builders.cards.render import write_card as write_card_whole
from builders.core.run import run
from builders.core.stage import Stage, Trained
from builders.store.store import Store
from scorers.errors import UserError


def lacking(name: str, stage: Stage, context: Any, output: Path) -> Trained:
    """Train, and lose a file as if another process had deleted it."""
    assert stage.train is not None
    done = stage.train(context, output)
    (output / name).unlink()
    return done


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tokenizer_config.json", "left no tokenizer (tokenizer_config.json)"),
        ("model.safetensors", "left no weights (*.safetensors)"),
        ("config.json", "left no configuration (config.json or adapter_config.json)"),
    ],
)
def test_a_model_that_lacks_a_file_is_not_added(tmp_path: Path, name: str, words: str) -> None:
    stages = tuple(replace(s, train=partial(lacking, name, s)) if s.name == "fold-2" else s for s in TOY.stages)
    with pytest.raises(UserError) as caught:
        run(replace(TOY, stages=stages), toy_config(tmp_path), "totals")
    assert words in str(caught.value) and "stage fold-2" in str(caught.value)
    store = Store(tmp_path)
    assert store.refs("local/demo-fold-2", "model") == {} and "main" in store.refs("local/demo-fold-1", "model")
    assert run(TOY, toy_config(tmp_path), "totals")[-1].built


def test_a_file_that_goes_while_its_manifest_is_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def write_card(manifest: Any, folder: Path, *arguments: Any, **options: Any) -> None:
        write_card_whole(manifest, folder, *arguments, **options)
        if manifest.kind == "model":
            (folder / "config.json").write_text('{"other": 1}')

    monkeypatch.setattr(builders.core.assemble, "write_card", write_card)
    with pytest.raises(UserError, match=r"config\.json changed while it was added to the store"):
        run(TOY, toy_config(tmp_path), "totals")
    assert not list(tmp_path.glob("models--*"))
