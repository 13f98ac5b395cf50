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
from report_pages import HOSTILE, ODD, id_of, odd_rows

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
    while shown.execute_script("return document.querySelector('[data-control=sort]').value") != "=length":
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
    assert driver.execute_script("return document.getElementById('found').textContent") == "1 of 1 group listed"


# --------------------------------------------------------------------------------------------- odd data on one page

FILLERS = 600
GROUPS = len(ODD) + FILLERS


@pytest.fixture(scope="module")
def odd_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Groups that are large, long, or written in an unusual way, among 600 small ones."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "data").mkdir()
    pl.DataFrame(odd_rows(FILLERS), infer_schema_length=None).write_parquet(folder / "data" / "x.parquet")
    store = Store(folder / "store")
    return write_page(folder / "odd.html", [open_revision(str(folder / "data"), store)], store).path


@pytest.fixture
def odd(driver: Any, odd_page: Path) -> Any:
    """The browser with the page of odd data open."""
    chromium.screen(driver, 1400, 900)
    driver.get("about:blank")
    chromium.opened(driver, odd_page.as_uri())
    return driver


def lead(driver: Any, wanted: str) -> None:
    """Let the address lead to the group of a query."""
    driver.execute_script("location.hash = arguments[0]", id_of(wanted))
    chromium.until(driver, "document.querySelector('.query-text').textContent === arguments[0]", wanted)


def text_at(driver: Any, selector: str) -> str:
    return str(driver.execute_script("return document.querySelector(arguments[0]).textContent", selector))


def choice(driver: Any, control: str, value: str) -> None:
    """Choose a value of one of the controls."""
    script = (
        "const e = document.querySelector(arguments[0]); e.value = arguments[1]; e.dispatchEvent(new Event('change'))"
    )
    driver.execute_script(script, control, value)


def against(driver: Any, wanted: str) -> tuple[str, str]:
    """The second response of a group and what is said of it, with differences from the first."""
    lead(driver, wanted)
    choice(driver, "[data-control=base]", "0 0")
    second = "article:nth-of-type(2)"
    return text_at(driver, f"{second} .text"), text_at(driver, f"{second} .said")


def test_the_place_in_the_list_follows_its_order_and_the_search(odd: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    place = "document.querySelector('.place').textContent"
    assert odd.execute_script(f"return {place}") == f"1 of {GROUPS}"
    lead(odd, "many")
    choice(odd, "#order", "=score")
    listed = "[...document.querySelectorAll('#list li')].findIndex(e => e.ariaSelected === 'true')"
    at = odd.execute_script(f"return {listed}")
    assert at == 1 and odd.execute_script(f"return {place}") == f"2 of {GROUPS}"
    assert not odd.execute_script("return document.querySelector('[data-control=previous]').disabled")
    press(odd, "/", "nothing like it")
    chromium.until(odd, f"{place} === 'not listed: no group is'")
    assert odd.execute_script("return document.querySelector('[data-control=next]').disabled")
    odd.execute_script("document.getElementById('search').select()")
    press(odd, Keys.BACKSPACE)
    chromium.until(odd, f"{place} === '2 of {GROUPS}'")


def test_form_and_label_list_only_groups_with_such_a_response(odd: Any) -> None:
    choice(odd, "#matched", "1")
    choice(odd, "#label", "1")
    chromium.until(odd, "document.querySelector('.query-text').textContent === 'fits both'")
    assert text_at(odd, "#found") == f"1 of {GROUPS} groups listed"
    assert odd.execute_script(f"return {CARDS}") == ["response 0"]


def test_the_address_leads_to_a_group_and_back(shown: Any, page: Path) -> None:
    first = "document.querySelector('.query-text').textContent.startsWith(arguments[0])"
    top = "document.getElementById('group').getBoundingClientRect().top"
    shown.execute_script("location.hash = 'query2'")
    chromium.until(shown, first, "Query 2")
    assert 0 <= shown.execute_script(f"return {top}") < 200
    press(shown, "j")
    chromium.until(shown, first, "Query 3")
    shown.back()
    chromium.until(shown, first, "Query 2")
    press(shown, "j", "j")  # as a held key: one step back
    chromium.until(shown, first, "Query 4")
    shown.back()
    chromium.until(shown, first, "Query 2")
    shown.execute_script("document.querySelector('nav a[href=\"#summary\"]').click()")
    shown.refresh()
    chromium.until(shown, "document.documentElement.dataset.ready === '1'")
    assert query(shown).startswith("Query 2") and shown.current_url.endswith("#summary")
    shown.get("about:blank")
    chromium.opened(shown, f"{page.as_uri()}#query2")
    assert 0 <= shown.execute_script(f"return {top}") < 200


def test_an_unknown_id_is_said_to_be_unknown(shown: Any) -> None:
    shown.execute_script("location.hash = 'nobody'")
    chromium.until(shown, "!document.getElementById('unknown').hidden")
    assert text_at(shown, "#unknown") == "No group of this page has the id “nobody”; another one is shown."
    assert shown.current_url.endswith("#nobody") and query(shown).startswith("Query 0")
    press(shown, "j")
    chromium.until(shown, "document.getElementById('unknown').hidden")


def test_what_differs_is_counted_and_told(odd: Any) -> None:
    same = "0.0 % of 4-grams repeated"
    assert against(odd, "blanks") == ("red cat sat", f"{same} · they differ in white space alone")
    text, said = against(odd, "replaced")
    assert (text, said) == (
        "the red blue cat sat there",
        f"{same} · 1 difference, 20 % of the words",
    )
    assert against(odd, "a sign") == ("red cat.", f"{same} · 1 difference, in signs alone")
    text, said = against(odd, "gone last")
    assert text.rstrip() == "red cat sat on the mat" and said == f"{same} · 1 difference, 50 % of the words"
    text, _ = against(odd, "gone within")
    assert text.replace("  ", " ").split("<")[1].rstrip() == "answer>red old cat sat"
    _, said = against(odd, "sentences")
    assert "1 difference of sentences, too many for words, " in said


def test_large_groups_and_long_texts_come_in_portions(odd: Any) -> None:
    lead(odd, "many")
    counted = "document.querySelectorAll('.response').length"
    portion = ".group > .portion"
    assert odd.execute_script(f"return {counted}") == 50
    assert text_at(odd, portion) == "50 of 120 responses shown Show 50 more"
    press(odd, "+")
    assert odd.execute_script(f"return {counted}") == 100
    odd.execute_script("document.querySelector('[data-control=cards]').click()")
    assert odd.execute_script(f"return {counted}") == 120
    assert odd.execute_script("return document.querySelector(arguments[0]).hidden", portion)
    lead(odd, "long")
    size = "document.querySelector('.response .text').textContent.length"
    assert 199_000 < odd.execute_script(f"return {size}") <= 200_000
    assert "the rest of a long text is neither counted nor compared" in text_at(odd, ".response .said")
    assert "of 419,998 characters shown" in text_at(odd, ".response .portion")
    for _ in range(2):
        odd.execute_script("document.querySelector('.response .portion button').click()")
    assert odd.execute_script(f"return {size}") == 419_998
    assert odd.execute_script("return document.querySelector('.response .portion')") is None


def test_the_list_holds_a_window_of_the_groups(odd: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    entries = "[...document.querySelectorAll('#list li')].map(e => Number(e.ariaPosInSet))"
    assert odd.execute_script(f"return {entries}") == list(range(1, 201))
    odd.execute_script("document.getElementById('list').focus()")
    press(odd, Keys.END)
    chromium.until(odd, f"document.querySelector('.place').textContent === '{GROUPS} of {GROUPS}'")
    found = odd.execute_script(f"return {entries}")
    assert found[-1] == GROUPS and len(found) <= 200
    chosen = "document.querySelector('#list [aria-selected=true]').getBoundingClientRect()"
    bottom = odd.execute_script("return document.getElementById('list').getBoundingClientRect().bottom")
    assert odd.execute_script(f"return {chosen}.bottom") <= bottom
    odd.execute_script("document.getElementById('earlier').click()")
    assert odd.execute_script(f"return {entries}") == list(range(found[0] - 200, GROUPS + 1))
    press(odd, Keys.HOME)
    chromium.until(odd, f"document.querySelector('.place').textContent === '1 of {GROUPS}'")
    odd.execute_script("document.getElementById('more').click()")
    assert odd.execute_script(f"return {entries}") == list(range(1, 401))


def test_words_numbers_and_line_ends_are_read_as_they_are(odd: Any) -> None:
    lead(odd, "marks")
    script = "return [...document.querySelectorAll('.length span')].map(e => e.textContent.split(',')[0])"
    assert odd.execute_script(script) == ["2 words", "2 words", "1 word"]
    lead(odd, "numbers")
    values = "[...e.querySelectorAll('dd')].map(d => d.textContent)"
    script = f"return [...document.querySelectorAll('.metrics')].map(e => {values})"
    assert [found[:2] for found in odd.execute_script(script)] == [
        ["1e+300", "9,007,199,254,740,993"],
        ["1e+20", "12,345"],
    ]
    lead(odd, "lines")
    assert odd.execute_script("return [...document.querySelectorAll('.hidden-sign')].map(e => e.textContent)") == [
        "U+000D"
    ]
    assert text_at(odd, ".response .text") == "three zebra\r\nline endU+000Dx"
    press(odd, "/", "ZEBRA  line end")
    odd.execute_script("document.getElementById('whole').click()")
    chromium.until(odd, "document.querySelectorAll('#list li').length === 1")


def test_every_way_to_sort_has_a_name_of_its_own(odd: Any) -> None:
    lead(odd, "many")
    script = "return [...document.querySelector('[data-control=sort]').options].map(e => e.textContent)"
    names = odd.execute_script(script)
    assert names == ["as in the data", "score", "big", "words", "mean rating", "(no name)", "words (counted here)"]
    choice(odd, "[data-control=sort]", "=")
    assert text_at(odd, ".metrics .sorted dt") == "(no name)"
    assert odd.execute_script("return document.querySelector('[data-control=sort]').selectedIndex") == 5


def test_brackets_on_alt_gr_and_the_name_of_the_theme(shown: Any) -> None:
    options = "{key: ']', ctrlKey: true, altKey: true, bubbles: true}"
    shown.execute_script(f"document.body.dispatchEvent(new KeyboardEvent('keydown', {options}))")
    assert shown.execute_script("return document.querySelector('.tabs [aria-pressed=true]').textContent")[:1] == "1"
    assert text_at(shown, "#theme") == "Dark page"
    shown.execute_script("document.getElementById('theme').click()")
    assert text_at(shown, "#theme") == "Light page"
    shown.execute_script("document.getElementById('theme').click()")


def luminance(colour: str) -> float:
    """The relative luminance of WCAG 2 of a colour as the browser tells it."""
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").rstrip(")").split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_borders_of_controls_are_seen(shown: Any, theme: str) -> None:
    shown.execute_script("document.documentElement.dataset.theme = arguments[0]", theme)
    for selector in ("#search", "#matched", "#theme", "#list"):
        script = "const e = document.querySelector(arguments[0]), s = getComputedStyle(e);"
        script += "return [s.borderTopColor, s.backgroundColor, getComputedStyle(document.body).backgroundColor]"
        border, *grounds = map(luminance, shown.execute_script(script, selector))
        for ground in grounds:
            light, dark = max(border, ground), min(border, ground)
            assert (light + 0.05) / (dark + 0.05) >= 3


def test_on_paper_everything_stands_in_one_light_column(odd: Any) -> None:
    lead(odd, "long")
    odd.execute_script("document.documentElement.dataset.theme = 'dark'")
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    try:
        odd.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": dark})
        odd.execute_script("dispatchEvent(new Event('beforeprint'))")
        assert luminance(odd.execute_script("return getComputedStyle(document.body).backgroundColor")) > 0.9
        lefts = "new Set([...document.querySelectorAll('.response')].map(e => e.getBoundingClientRect().left)).size"
        assert odd.execute_script(f"return {lefts}") == 1
        seen = "e.checkVisibility() && !e.closest('td, th, summary')"
        hides = "getComputedStyle(e).overflowY !== 'visible' && e.scrollHeight > e.clientHeight + 1"
        cut = f"[...document.querySelectorAll('main *')].filter(e => {seen} && {hides}).length"
        assert odd.execute_script(f"return {cut}") == 0
        assert not odd.execute_script("return document.querySelectorAll('main details:not([open])').length")
        odd.execute_script("dispatchEvent(new Event('afterprint'))")
        assert odd.execute_script("return document.querySelectorAll('main details:not([open])').length")
    finally:
        odd.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def test_the_browser_is_blamed_only_where_it_is_too_old(driver: Any, page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    start = text.index('class="index">') + len('class="index">')
    broken = tmp_path / "broken.html"
    broken.write_text(text[:start] + "00000" + text[start + 5 :], encoding="utf-8")
    driver.get(broken.as_uri())
    chromium.until(driver, "document.getElementById('loading').textContent.includes('cannot be shown')")
    assert "browser" not in text_at(driver, "#loading") and "damaged" in text_at(driver, "#loading")
    source = {"source": "delete window.DecompressionStream"}
    added = driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", source)
    try:
        driver.get(page.as_uri())
        chromium.until(driver, "document.getElementById('loading').textContent.includes('a browser of 2023 or later')")
    finally:
        driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
