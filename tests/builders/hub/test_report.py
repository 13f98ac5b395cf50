"""A page of a dataset that somebody found on the Hub: no configuration, no model, nothing in the store."""

import shutil
from pathlib import Path

import pytest
from hub_server import HubServer
from report_pages import groups_in
from store_chains import add_dataset, config_for

from builders.hub.publish import publish
from builders.report.page.opening import lineage_table, open_all
from builders.store.revision import Choice
from builders.store.store import Store
from scorers.errors import UserError
from training.pipelines import load_config, page_of, report


def test_a_published_dataset_is_read_with_one_command(connected: HubServer, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    made = add_dataset(store, "calibrate")
    publish(made, config_for(store), page_of)
    written = report(load_config("tiny", [], str(tmp_path / "other")), ["alice/demo-weights"], tmp_path / "r.html")
    assert made.manifest is not None and written.of == written.groups > 0
    texts = [one["text"] for group in groups_in(written.path) for one in group["parts"][0]["responses"]]
    assert len(texts) == made.manifest.rows.written
    page = written.path.read_text()
    assert "Lineage of alice/demo-weights@" in page and made.manifest.digest in page


def test_what_the_hub_does_not_have_is_one_line(connected: HubServer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="alice/nothing"):
        open_all(["alice/nothing"], Store(tmp_path / "store"), Choice())


def test_the_lineage_of_a_path_is_that_of_the_folder(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    made = add_dataset(store, "sample")
    shutil.copytree(made.path, tmp_path / "copy")
    (revision,) = open_all([str(tmp_path / "copy")], store, Choice())
    table = lineage_table(str(tmp_path / "copy"), revision, store)
    assert table is not None and table.rows[0][0].startswith("sample")
