"""The taxonomy: the one that comes with the package, and users' own in any of the formats that are read."""

import json
from pathlib import Path

import polars as pl
import pytest

from builders.core.languages import is_chinese
from builders.writingbench.taxonomy import OURS
from scorers.errors import UserError
from training.pipelines import build, load_config


def built(tmp_path: Path, *settings: str) -> pl.DataFrame:
    config = load_config("tiny-writingbench", settings, str(tmp_path / "store"))
    return build(config, "taxonomy")[-1].revision.scan().collect()


def test_the_papers_domains_and_subdomains_in_two_languages(tmp_path: Path) -> None:
    rows = built(tmp_path, "taxonomy.source=null", "taxonomy.languages=[en, zh]")
    assert rows.height == 200 and rows["subdomain_id"].n_unique() == 200
    kinds = rows.select("domain", "subdomain").unique(maintain_order=True)
    counts = kinds.group_by("domain", maintain_order=True).len()
    assert list(counts.iter_rows()) == [
        ("Academic & Engineering", 17),
        ("Finance & Business", 20),
        ("Politics & Law", 19),
        ("Literature & Arts", 21),
        ("Education", 12),
        ("Advertising & Marketing", 11),
    ]
    chinese = rows.filter(pl.col("language") == "zh")["description"]
    assert chinese.len() == 100 and all(map(is_chinese, chinese)) and rows["description"].n_unique() == 200
    assert (
        built(tmp_path, "taxonomy.source=null", "taxonomy.languages=[zh-CN]")["language"].to_list() == ["zh-CN"] * 100
    )


def test_it_is_part_of_the_package() -> None:
    assert OURS.is_file() and OURS.parent.name == "writingbench"


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_a_users_own(tmp_path: Path, ending: str) -> None:
    rows = [
        {"domain": "Home", "subdomain": "Letter", "description": "To a landlord, or from one."},
        {"domain": " Home ", "subdomain": "Letter", "description": "Twice."},
        {"domain": "Home", "subdomain": "", "description": "Without a name."},
        {"domain": "Home", "subdomain": "Toast", "description": ""},
    ]
    path = tmp_path / f"mine{ending}"
    if ending == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        frame = pl.DataFrame(rows)
        frame.write_csv(path) if ending == ".csv" else frame.write_parquet(path)
    found = built(tmp_path, f"taxonomy.source={path}", "taxonomy.languages=[en, fr]")
    assert list(found.select("subdomain", "language", "description", "source").iter_rows()) == [
        ("Letter", "en", "To a landlord, or from one.", path.name),
        ("Letter", "fr", "To a landlord, or from one.", path.name),
        ("Toast", "en", None, path.name),
        ("Toast", "fr", None, path.name),
    ]


def test_a_language_of_its_own_counts(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("domain,subdomain,language\nHome,Letter,de\nHome,Toast,en\n")
    assert built(tmp_path, f"taxonomy.source={path}")["subdomain"].to_list() == ["Toast"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("domain,name\nHome,Letter\n", "no column subdomain; it has domain, name"),
        ("domain,subdomain\n,\n", "no row with domain and subdomain in the languages en, of 1 rows"),
        ("domain,subdomain,language\nHome,Letter,de\n", "no row with domain and subdomain in the languages en"),
    ],
)
def test_a_source_that_does_not_do(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        built(tmp_path, f"taxonomy.source={path}")


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        built(tmp_path, f"taxonomy.source={tmp_path / 'mine.csv'}")


def test_a_language_without_a_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("domain,subdomain,language\nHome,Letter,de\nHome,Toast,en\n")
    message = r"mine.csv: no row is in fr, zh; leave that out of taxonomy.languages \(en, fr, zh\), or give a taxonomy"
    with pytest.raises(UserError, match=message):
        built(tmp_path, f"taxonomy.source={path}", "taxonomy.languages=[en, fr, zh]")
