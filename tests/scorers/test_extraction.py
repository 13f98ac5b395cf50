"""The tagged form: what matches, what does not, and that no text a model writes can hurt."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorers.extraction import (
    PLAN_PATTERN,
    SPACES,
    TAGS,
    Extraction,
    Plan,
    compose,
    cut_thinking,
    extract,
    extract_plan,
    form_of,
)

GOOD = "<summary>S</summary>\n<outline>O</outline>\n<answer>D</answer>"


@pytest.mark.parametrize(
    ("response", "parts"),
    [
        (GOOD, ("S", "O", "D")),
        ("\n\t " + GOOD + " \n", ("S", "O", "D")),
        ("<summary>S</summary><outline>O</outline><answer>D</answer>", ("S", "O", "D")),
        (GOOD.replace("D", "\n 1. A\n\n  b \n"), ("S", "O", "1. A\n\n  b")),
        (GOOD.replace("D", "a < b <p>c</p> <Summary> </ answer>"), ("S", "O", "a < b <p>c</p> <Summary> </ answer>")),
        (GOOD.replace("S", "国有企业").replace(">\n<", ">\u3000<"), ("国有企业", "O", "D")),
    ],
)
def test_matched(response: str, parts: tuple[str, str, str]) -> None:
    assert extract(response) == Extraction(*parts)


def test_chinese_layout() -> None:
    # The ideographic space is white space: layout around a part, text inside one.
    response = "<summary>　摘要。</summary>　\n<outline>一、背景</outline><answer>　　一、背景\n　　正文。</answer>"
    assert extract(response) == Extraction("摘要。", "一、背景", "一、背景\n　　正文。")
    # Brackets of full width make no tags.
    assert extract(response.replace("<answer>", "＜answer＞")) is None


@pytest.mark.parametrize(
    "response",
    [
        "",
        "D",
        "Sure! " + GOOD,
        GOOD + "\nHope this helps.",
        GOOD.replace("\n<outline>", "\nso\n<outline>"),
        GOOD.replace("\n<answer>", "\nso\n<answer>"),
        GOOD.replace("</answer>", ""),  # cut at the length limit
        GOOD.replace("<outline>O</outline>\n", ""),
        GOOD + "<answer>E</answer>",
        GOOD.replace("D", "D <answer> E"),
        GOOD.replace("D", "D </summary> E"),
        GOOD.replace("S", " \n").replace("<summary> \n", "<summary> "),
        GOOD.replace("O", ""),
        GOOD.replace("D", "\u3000\t"),
        GOOD.upper(),
        "<outline>O</outline><summary>S</summary><answer>D</answer>",
        "</summary>S<summary><outline>O</outline><answer>D</answer>",
        "<summary>S<outline></summary>O</outline><answer>D</answer>",
    ],
)
def test_unmatched(response: str) -> None:
    assert extract(response) is None


def by_regex(response: str) -> Extraction | None:
    """The same definition, written independently."""
    if any(len(re.findall(re.escape(tag), response)) != 1 for tag in TAGS):
        return None
    pattern = r"\s*".join(f"<{part}>(.*?)</{part}>" for part in ("summary", "outline", "answer"))
    match = re.fullmatch(rf"\s*{pattern}\s*", response, re.DOTALL)
    if match is None or not all(part.strip() for part in match.groups()):
        return None
    return Extraction(*(part.strip() for part in match.groups()))


@given(st.lists(st.sampled_from([*TAGS, "x", " ", "\n", "<", "</answer"]), max_size=14).map("".join))
def test_equals_a_regular_expression_on_jumbled_tags(response: str) -> None:
    assert extract(response) == by_regex(response)


@given(st.lists(st.sampled_from(["x", " ", "\n", "<", ">", "é"]), max_size=5).map("".join), st.sampled_from(range(7)))
def test_equals_a_regular_expression_on_one_insertion(noise: str, gap: int) -> None:
    pieces = ["", "<summary>S", "</summary>", "<outline>O", "</outline>", "<answer>D", "</answer>"]
    pieces[gap] += noise
    assert extract("".join(pieces)) == by_regex("".join(pieces))


@given(st.text())
def test_never_raises(response: str) -> None:
    assert extract(response) is None  # no such text holds six tags


@given(*[st.text(min_size=1).filter(lambda s: s.strip() and "<" not in s)] * 3)
def test_gives_back_what_was_put_in(summary: str, outline: str, document: str) -> None:
    response = f"<summary>{summary}</summary><outline>{outline}</outline><answer>{document}</answer>"
    assert extract(response) == (summary.strip(), outline.strip(), document.strip())


@pytest.mark.parametrize("unit", ["<summary>", "<", "<answer", " ", "</answer>", "<summary>S</summary>"])
def test_a_megabyte_of_repeated_fragments_is_unmatched(unit: str) -> None:
    assert extract(unit * (1_000_000 // len(unit))) is None


@pytest.mark.parametrize("unit", ["<", "</answer", " <", "<summary"])
def test_a_megabyte_of_fragments_inside_a_part_is_text(unit: str) -> None:
    document = unit * (1_000_000 // len(unit))
    extraction = extract(GOOD.replace("D", document))
    assert extraction is not None
    assert extraction.document == document.strip()


THINK = ("<think>", "</think>")


@pytest.mark.parametrize(
    ("text", "opened", "expected"),
    [
        ("<think>a</think>b", False, ("b", "cut")),
        ("\n<think>\na <summary>\n</think>\n\nb", False, ("b", "cut")),
        ("<think></think>", False, ("", "cut")),
        ("a</think> b", False, ("b", "cut")),  # the prompt ended with the opening tag
        ("a</think> b", True, ("b", "cut")),
        ("a <think> c</think> b", True, ("b", "cut")),
        ("<think>a</think>b</think>c", False, ("b</think>c", "cut")),
        ("<think>a", False, ("", "unclosed")),
        ("a", True, ("", "unclosed")),
        ("", True, ("", "unclosed")),
        ("a", False, ("a", "none")),
        ("", False, ("", "none")),
        (" a ", False, (" a ", "none")),
        ("On <think> tags.", False, ("On <think> tags.", "none")),
        ("On <think> and </think> tags.", False, ("On <think> and </think> tags.", "none")),
        ("<thinking>a</thinking>b", False, ("<thinking>a</thinking>b", "none")),
    ],
)
def test_a_thinking_block_is_cut(text: str, opened: bool, expected: tuple[str, str]) -> None:
    assert cut_thinking(text, THINK, opened=opened) == expected


@given(st.text(), st.text(alphabet=" \n").flatmap(lambda space: st.just(space)))
def test_what_follows_a_block_comes_back(answer: str, space: str) -> None:
    assert cut_thinking(f"{space}[T]plan[/T]{space}{answer}", ("[T]", "[/T]")) == (answer.lstrip(), "cut")


def test_the_form_of_a_document() -> None:
    assert [form_of(text) for text in (GOOD, "D", "", "a <answer>", GOOD + GOOD)] == [
        "tagged",
        "plain",
        "plain",
        "broken",
        "broken",
    ]


# A part that holds a tag cannot be told apart; hypothesis takes texts such as tags from the source.
PART = (
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
    .map(str.strip)
    .filter(lambda text: text and not re.search("</?(summary|outline|answer)>", text))
)


@given(PART, PART, PART)
def test_what_is_composed_is_taken_apart_again(summary: str, outline: str, document: str) -> None:
    assert extract(compose(summary, outline, f" {document}\n")) == Extraction(summary, outline, document)


@pytest.mark.parametrize(
    "reply",
    [
        "<summary>S</summary><outline>O</outline>",
        "Sure!\n```xml\n<summary> S </summary>\nand\n<outline>\nO</outline>\n```",
    ],
)
def test_a_plan_in_a_reply(reply: str) -> None:
    assert extract_plan(reply) == Plan("S", "O")


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "S\nO",
        "<summary>S</summary>",
        "<summary>S</summary><outline>O",
        "<outline>O</outline><summary>S</summary>",
        "<summary> </summary><outline>O</outline>",
        "<summary>S</summary><outline>\u3000</outline>",
        "<summary>S</summary><summary>S</summary><outline>O</outline>",
        "<summary>S<outline>O</outline></summary>",
        "<summary>S</summary><outline>O <answer> </outline>",
        GOOD,
    ],
)
def test_no_plan_in_a_reply(reply: str) -> None:
    assert extract_plan(reply) is None


def test_the_time_to_read_a_plan_is_linear() -> None:
    """A text of a million tags is read in one pass for each tag, not in one for each pair of them."""
    assert extract_plan("<summary></summary>" * 500_000) is None
    assert extract_plan("<summary>" + "<" * 5_000_000) is None


def test_spaces_are_those_of_python() -> None:
    every = "".join(map(chr, range(0x110000)))
    assert re.findall(f"[{SPACES}]", every) == [char for char in every if char.isspace()]


@given(st.from_regex(PLAN_PATTERN, fullmatch=True))
def test_every_guided_plan_is_taken_apart(reply: str) -> None:
    plan = extract_plan(reply)
    assert plan is not None and reply.startswith(f"<summary>{plan.summary}")


@given(st.lists(st.sampled_from(["<", "/", "s", "<summary>", "</summary>", "</", "5", " ", "</outline>", "<answer>"])))
def test_no_part_of_a_guided_plan_holds_a_tag(pieces: list[str]) -> None:
    """Whatever stands in the summary: where the pattern takes it, the parser does, letter by letter."""
    summary = "".join(pieces)
    reply = f"<summary>{summary}</summary><outline>O</outline>"
    if re.fullmatch(PLAN_PATTERN, reply):
        assert extract_plan(reply) == Plan(summary.strip(), "O")
        assert not any(tag in summary for tag in TAGS)


@pytest.mark.parametrize(
    ("summary", "fits"),
    [
        ("S", True),
        ("p < 0.05, <5", True),
        ("A\nB", True),
        (" S", False),
        ("\u3000", False),
        ("", False),
        ("<b>", False),
        ("<|end|>", False),
    ],
)
def test_what_a_guided_summary_is(summary: str, fits: bool) -> None:
    assert bool(re.fullmatch(PLAN_PATTERN, f"<summary>{summary}</summary><outline>O</outline>")) == fits
