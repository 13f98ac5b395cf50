"""Text that stays text: read back by a Markdown parser."""

import ast
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from builders.cards import markdown as card_text

MARKDOWN = MarkdownIt("commonmark").enable("table").enable("strikethrough")


def collapsed(text: str) -> str:
    return " ".join(card_text.clean(text).split())


def words(inline: Any) -> str:
    """The text a reader sees of an inline token; fails on markup other than text and code."""
    kinds = {child.type for child in inline.children}
    assert kinds <= {"text", "text_special", "code_inline"}, kinds
    return "".join(child.content for child in inline.children)


@given(st.text() | st.text(alphabet="|`\\*__aa[]()<>!&#;-=+.1~$@:/\n w"))
def test_escaped_text_renders_as_itself(text: str) -> None:
    shown = collapsed(text)
    paragraph = MARKDOWN.parse(card_text.escape(text))
    assert [t.type for t in paragraph] == (["paragraph_open", "inline", "paragraph_close"] if shown else [])
    if shown:
        assert words(paragraph[1]) == shown


@given(st.text() | st.text(alphabet="|`\\*<>&$ \n{}"))
def test_escaped_text_and_code_stay_in_their_table_cells(text: str) -> None:
    table = f"| a | b | c |\n|---|---|---|\n| {card_text.escape(text)} | {card_text.code(text)} | end |\n"
    tokens = MARKDOWN.parse(table)
    cells = [t for t in tokens if t.type == "inline"][3:]
    assert len(cells) == 3 and cells[2].content == "end"
    assert words(cells[0]) == collapsed(text)
    allowed = [t.content for t in cells[1].children or [] if t.type == "html_inline"]
    assert allowed in ([], ["<code>", "</code>"])
    assert "".join(t.content for t in cells[1].children or [] if t.type != "html_inline") == collapsed(text)


@given(st.text() | st.text(alphabet="`~\n -<>"))
def test_a_fence_holds_any_text(text: str) -> None:
    tokens = MARKDOWN.parse(f"before\n\n{card_text.fence(text, 'json')}\n\nafter\n")
    assert [t.type for t in tokens][:4] == ["paragraph_open", "inline", "paragraph_close", "fence"]
    assert len(tokens) == 7 and tokens[5].content == "after"
    assert tokens[3].content.rstrip("\n") == card_text.clean(text).rstrip("\n")


def test_escape_gold_cases() -> None:
    assert card_text.escape("a|b") == "a&#124;b"
    assert card_text.escape("<script>") == "&#60;script&#62;"
    assert card_text.escape("x\n---\ny") == "x --- y"
    assert card_text.escape("---") == "&#45;--"
    assert card_text.escape("12. a") == "&#49;2. a" and card_text.escape("12.5 %") == "12.5 %"
    assert card_text.escape("https://a.b www.c.d e@f.g") == "https&#58;//a.b www&#46;c.d e&#64;f.g"
    assert card_text.escape("{query_id}-{j} model@main") == "{query_id}-{j} model@main"
    assert card_text.escape("_a_ __b__") == "&#95;a&#95; &#95;&#95;b&#95;&#95;"
    assert card_text.escape("{{ 7 * 7 }}") == "&#123;{ 7 &#42; 7 }}"
    assert card_text.escape("a\x1b[31m\u202eb") == "a\ufffd&#91;31m\ufffdb"
    assert card_text.code("x-1_2.parquet") == "`x-1_2.parquet`"
    assert card_text.code("a|b") == "<code>a&#124;b</code>"
    assert card_text.fence("````", "md") == "`````md\n````\n`````"


@given(st.text())
def test_a_literal_is_the_text_in_python_and_closes_no_fence(text: str) -> None:
    source = card_text.literal(text)
    assert "`" not in source and "\n" not in source
    assert ast.literal_eval(source) == text or any("\ud800" <= c <= "\udfff" or ord(c) > 0xFFFF for c in text)
