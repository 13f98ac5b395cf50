"""Words as numbers, deflate and base 85: everything comes back as it was."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_pages import HOSTILE, block_bytes, decode

from builders.report.page.packing import LITERAL, MOST, ONE, TWO, WORDS, codes_of, deflate, encode, vocabulary_of
from builders.report.page.page import block


@given(st.lists(st.text(), min_size=1), st.text(), st.integers(0, 40))
def test_every_text_comes_back_as_it_was(learnt: list[str], text: str, room: int) -> None:
    words = vocabulary_of([json.dumps(one, ensure_ascii=False) for one in learnt] * 3, room)
    packed = json.dumps(text, ensure_ascii=False)
    data = block("groups", deflate(encode(packed, codes_of(words)))).decode()
    assert decode(block_bytes(data, "groups")[0], "\n".join(words).split("\n")) == packed


@pytest.mark.parametrize("text", HOSTILE)
def test_a_block_holds_no_character_of_markup(text: str) -> None:
    data = block("groups", deflate(encode(json.dumps([text] * 50), {}))).decode()
    inner = re.fullmatch(r'<script type="text/plain" class="groups">(.*)</script>\n', data)
    assert inner is not None and not set(inner[1]) & set("<>&\r\n\0") and inner[1].isascii()


def test_words_are_cut_so_that_nothing_is_lost_and_blanks_go_with_words() -> None:
    assert WORDS.findall('a "word"\\n again 汉字 _x') == [
        "a", " ", '"', "word", '"', "\\n", " again", " ", "汉", "字", " ", "_", "x",
    ]  # fmt: skip


def test_frequent_words_come_first_and_rare_ones_not_at_all() -> None:
    texts = ["b b a a a c", "b b", "b", " a a c", f"{'x' * 33} " * 4]
    assert vocabulary_of(texts, 100) == [" a", "b"] and vocabulary_of(texts, 4) == [" a"]


def test_codes_are_shorter_for_words_that_stand_first() -> None:
    codes = codes_of([str(place) for place in range(MOST)])
    assert codes["0"] == b"\x00" and codes[str(ONE)] == bytes((ONE, 0))
    assert codes[str(ONE + TWO * 256 - 1)] == bytes((ONE + TWO - 1, 255))
    assert codes[str(ONE + TWO * 256)] == bytes((ONE + TWO, 0, 0))
    assert len(set(codes.values())) == MOST and max(code[0] for code in codes.values()) < LITERAL


def test_a_word_longer_than_a_byte_can_count_is_cut() -> None:
    for word in ("x" * 1000, "\U00010348" * 300):
        assert decode(encode(word, {}), []) == word


def test_the_browser_knows_the_same_numbers() -> None:
    from builders.report.page.page import FOLDER

    script = (FOLDER / "page.js").read_text(encoding="utf-8")
    assert f"const [ONE, TWO, LITERAL] = [{ONE}, {TWO}, {LITERAL}];" in script
