"""The page in a browser, by the keyboard alone: every group can be read, and nothing of the data runs."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import chromium
import polars as pl
import pytest
from datasets_factory import add_dataset, scores_frame, weights_frame
from report_pages import HOSTILE

from builders.hub.refs import open_revision
from builders.report.page.page import write_page
from builders.store.store import Store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium.missing() is not None, reason=chromium.missing() or ""),
]
TAGGED = "<summary>Short.</summary>\n<outline>1. One</outline>\n<answer>{}</answer>"
REPEATED = "the cat sat on the mat and the cat sat on the hat"
CARDS = "[...document.querySelectorAll('.response h4')].map(e => e.textContent)"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rounds with a query in common, and hostile texts everywhere."""
    folder = tmp_path_factory.mktemp("page")
    store = Store(folder / "store")
    frame = scores_frame([(40, 55, 61, None)] * 5)
    texts = [
        TAGGED.format(REPEATED),
        TAGGED.format("one two three"),
        TAGGED.format(HOSTILE[0] + HOSTILE[1]),
        HOSTILE[2],
    ]
    queries = [f"Query {i // 4} {HOSTILE[i // 4]}" for i in range(20)]
    frame = frame.with_columns(response=pl.Series(texts * 5), query=pl.Series(queries))
    first = add_dataset(store, "calibrate", weights_frame(frame))
    later = frame.filter(pl.col("query_id") == "query0").with_columns(
        round=pl.lit(2, pl.Int32), response=pl.Series([TAGGED.format("one TWO three four")] * 4)
    )
    second = add_dataset(store, "calibrate", weights_frame(later), round_=2)
    return write_page(folder / "report.html", [first, second], store).path


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    started = chromium.start(tmp_path_factory.mktemp("profile"))
    yield started
    started.quit()


@pytest.fixture
def shown(driver: Any, page: Path) -> Any:
    """The browser with the page open at its first group."""
    chromium.screen(driver, 1400, 900)
    driver.get("about:blank")
    chromium.opened(driver, page.as_uri())
    driver.get_log("browser")
    return driver


def press(driver: Any, *keys: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(driver).send_keys(*keys).perform()


def query(driver: Any) -> str:
    return str(driver.execute_script("return document.querySelector('.query-text').textContent"))


def test_the_keyboard_leads_from_group_to_group(shown: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    assert query(shown).startswith("Query 0")
    for key, expected in (
        ("j", "Query 1"),
        (Keys.ARROW_RIGHT, "Query 2"),
        ("k", "Query 1"),
        (Keys.ARROW_LEFT, "Query 0"),
    ):
        press(shown, key)
        chromium.until(shown, "document.querySelector('.query-text').textContent.startsWith(arguments[0])", expected)
    press(shown, "k")  # before the first there is none
    assert query(shown).startswith("Query 0")


def test_search_by_the_keyboard(shown: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    press(shown, "/", "query 3")
    chromium.until(shown, "document.querySelectorAll('#list li').length === 1")
    chromium.until(shown, "document.querySelector('.query-text').textContent.startsWith('Query 3')")
    press(shown, Keys.ENTER, "/", Keys.BACKSPACE)
    chromium.until(shown, "document.querySelectorAll('#list li').length === 5")


def test_search_in_the_responses(shown: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    press(shown, "/", "one TWO three four")
    chromium.until(shown, "document.querySelector('#found').textContent.startsWith('0 of')")
    press(shown, Keys.TAB, Keys.SPACE)
    chromium.until(shown, "document.querySelectorAll('#list li').length === 1")
    assert query(shown).startswith("Query 0")


def test_sorting_and_filters_by_the_keyboard(shown: Any) -> None:
    press(shown, "j")  # a group of one dataset
    chromium.until(shown, f"{CARDS}.length === 4")
    script = (
        "[...document.querySelectorAll('.response')].map(e => e.querySelector('.metrics .sorted dd')?.firstChild.data)"
    )
    while shown.execute_script("return document.querySelector('[data-control=sort]').value") != "length":
        press(shown, "s")
    assert shown.execute_script(f"return {script}") == ["61", "55", "40", None]
    press(shown, "S")
    assert shown.execute_script(f"return {script}") == ["40", "55", "61", None]
    press(shown, "m")
    assert chromium.until(shown, f"{CARDS}.length === 3")
    press(shown, "m")
    assert chromium.until(shown, f"{CARDS}.length === 1")
    badges = shown.execute_script("return [...document.querySelectorAll('.badge')].map(e => e.textContent)")
    assert badges == ["✕ unmatched", "▼ negative"]
    press(shown, "m", "l")
    chromium.until(shown, f"{CARDS}.length > 0")
    badges = shown.execute_script("return [...document.querySelectorAll('.badge')].map(e => e.textContent)")
    assert badges and set(badges) == {"▲ positive"}


def test_the_same_query_a_round_later_with_what_differs(shown: Any) -> None:
    names = shown.execute_script(f"return {CARDS}")
    assert [name[:2] for name in names] == ["1:"] * 4 + ["2:"] * 4
    press(shown, "]", "]")
    assert [name[:2] for name in shown.execute_script(f"return {CARDS}")] == ["2:"] * 4
    press(shown, "]")
    while shown.execute_script("return document.querySelector('[data-control=base]').value") != "earlier":
        press(shown, "d")
    parts = "[...document.querySelectorAll('.response')].at(5).querySelectorAll(arguments[0])"
    new = shown.execute_script(f"return [...{parts}].map(e => e.textContent)", "ins")
    gone = shown.execute_script(f"return [...{parts}].map(e => e.textContent)", "del")
    assert [text.strip() for text in new] == ["TWO", "four"] and [text.strip() for text in gone] == ["two"]


def test_repeated_n_grams_and_tags_are_marked(shown: Any) -> None:
    first = "document.querySelector('.response')"
    marks = shown.execute_script(f"return [...{first}.querySelectorAll('mark')].map(e => e.textContent)")
    assert marks == ["the cat sat on the", "the cat sat on the"]
    tags = shown.execute_script(f"return [...{first}.querySelectorAll('.tag')].map(e => e.textContent)")
    assert tags == ["<summary>", "</summary>", "<outline>", "</outline>", "<answer>", "</answer>"]
    # 10 n-grams of 13 words, of which "the cat sat on" and "cat sat on the" stand there twice.
    said = shown.execute_script(f"return {first}.querySelector('.said').textContent")
    assert said == "40.0 % of 4-grams repeated"
    press(shown, "r")
    assert not shown.execute_script("return document.querySelectorAll('mark').length")


def test_help_opens_and_closes(shown: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    press(shown, "?")
    assert shown.execute_script("return document.getElementById('help').open")
    press(shown, Keys.ESCAPE)
    assert not shown.execute_script("return document.getElementById('help').open")


def test_hostile_texts_are_shown_and_run_nothing(shown: Any) -> None:
    texts = []
    for _ in range(5):
        texts.append(shown.execute_script("return document.getElementById('group').textContent"))
        press(shown, "j")
    whole = "".join(texts)
    for text in HOSTILE[:3]:
        assert text in whole
    assert "U+202E" in whole  # what turns the direction of a text is seen
    assert shown.execute_script("return window.broken") is None
    assert not shown.execute_script("return document.querySelectorAll('main img, main svg, main iframe').length")
    assert [entry for entry in shown.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_nothing_is_asked_of_a_network(driver: Any, page: Path) -> None:
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_request(self, *arguments: object) -> None:
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(page.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        chromium.requested(driver)
        address = f"http://127.0.0.1:{server.server_port}/report.html"
        chromium.opened(driver, address)
        for key in "jjj?":
            press(driver, key)
        assert asked == ["/report.html"]
        assert chromium.requested(driver) == {address}
        fetched = driver.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
        assert [name for name in fetched if not name.startswith(("data:", "blob:"))] == []
        refused = driver.execute_async_script(
            "const done = arguments[0]; fetch('/report.html').then(() => done('allowed'), () => done('refused'))"
        )
        assert refused == "refused" and asked == ["/report.html"]
    finally:
        server.shutdown()


@pytest.mark.parametrize("width", [375, 320, 760, 1400])
def test_no_page_is_wider_than_the_screen(shown: Any, width: int) -> None:
    chromium.screen(shown, width, 800)
    for _ in range(5):
        press(shown, "j")
        assert shown.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    columns = (
        "new Set([...document.querySelectorAll('.response')].map(e => Math.round(e.getBoundingClientRect().left))).size"
    )
    assert (shown.execute_script(f"return {columns}") == 1) == (width <= 760)


def test_the_focus_is_seen_and_the_theme_is_kept(shown: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    press(shown, Keys.TAB)
    assert shown.execute_script("return document.activeElement.className") == "skip"
    press(shown, Keys.TAB)
    assert shown.execute_script("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    colour = "getComputedStyle(document.body).backgroundColor"
    before = shown.execute_script(f"return {colour}")
    shown.execute_script("document.getElementById('theme').focus()")
    press(shown, Keys.ENTER)
    assert shown.execute_script(f"return {colour}") != before
    press(shown, Keys.ENTER)
    assert shown.execute_script(f"return {colour}") == before


def test_a_link_leads_to_its_group(driver: Any, page: Path) -> None:
    driver.get("about:blank")
    chromium.opened(driver, f"{page.as_uri()}#query2")
    assert query(driver).startswith("Query 2")


def test_preferences_are_marked_against_their_source(driver: Any, tmp_path: Path) -> None:
    rows = {"prompt": ["Say it."], "chosen": ["a good answer"], "rejected": ["a bad answer"]}
    (tmp_path / "pairs").mkdir()
    pl.DataFrame(rows).write_parquet(tmp_path / "pairs" / "x.parquet")
    revision = open_revision(str(tmp_path / "pairs"), Store(tmp_path / "store"))
    page = write_page(tmp_path / "r.html", [revision], Store(tmp_path / "store")).path
    chromium.opened(driver, page.as_uri())
    assert driver.execute_script("return document.querySelector('.response ins').textContent").strip() == "good"
    assert driver.execute_script("return document.querySelector('.response del').textContent").strip() == "bad"
