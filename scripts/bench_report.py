"""Write the page of 1,000 groups of 8 responses of 5,000 tokens, and open it in Chromium.

Words are drawn by Zipf's law from a vocabulary of 20,000 made of syllables, with punctuation; three words count as four
tokens, as tokenizers of English have it. Texts so drawn have no phrases that repeat, so they pack worse than prose.
The page is written with `--max-mb` megabytes at most, and it says how many groups that holds. Opening is the time from
the start of navigation until the first group is shown, from a file, the median of several; null without Chromium.
Prints a table and one line of JSON.

    python scripts/bench_report.py --groups 1000 --tokens 5000
"""

import argparse
import json
import multiprocessing
import random
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from builders.hub.refs import open_revision
from builders.report.page.page import Written, write_page
from builders.store.store import Store

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))

SYLLABLES = [a + b for a in ["st", "tr", "pl", *"bcdfghklmnprstv"] for b in ["ai", "ou", "en", "ar", *"aeiou"]]
VOCABULARY = 20_000
WORDS_PER_TOKEN = 0.75


def vocabulary(rng: random.Random) -> list[str]:
    """Distinct made-up words, frequent ones shorter."""
    found: dict[str, None] = {}
    while len(found) < VOCABULARY:
        longest = 2 if len(found) < VOCABULARY // 20 else 4
        found["".join(rng.choices(SYLLABLES, k=rng.randint(1, longest)))] = None
    return list(found)


def draw(words: list[str], size: int, rng: np.random.Generator) -> str:
    """A text of some words, drawn by Zipf's law, in sentences and paragraphs."""
    share = 1 / np.arange(1, len(words) + 1)
    drawn = [words[i] for i in rng.choice(len(words), size, p=share / share.sum())]
    ends = np.cumsum(rng.integers(6, 25, size // 6 + 1))
    for number, end in enumerate(ends[ends < size]):
        drawn[end - 1] += ".\n\n" if number % 6 == 5 else "."
        drawn[end] = drawn[end].capitalize()
    for comma in rng.integers(0, size, size // 15):
        drawn[comma] += "," if drawn[comma][-1].isalpha() else ""
    return " ".join(drawn)


def write_groups(folder: Path, groups: int, responses: int, tokens: int) -> None:
    """Write random groups with metrics, 50 in a file, so that few texts are in memory."""
    words, rng = vocabulary(random.Random(0)), np.random.default_rng(0)
    (folder / "data").mkdir(parents=True)
    size = round(tokens * WORDS_PER_TOKEN)
    for start in range(0, groups, 50):
        rows: list[dict[str, Any]] = []
        for group in range(start, min(start + 50, groups)):
            query = f"Please write about {draw(words, 20, rng)}"
            for j in range(responses):
                third = size // 30
                parts = [draw(words, n, rng) for n in (third, third, size - 2 * third)]
                text = "<summary>{}</summary>\n<outline>{}</outline>\n<answer>{}</answer>".format(*parts)
                numbers = dict(zip(METRICS, rng.standard_normal(len(METRICS)).tolist(), strict=True))
                rows.append(
                    {"query": query, "response_id": f"{group}-{j}", "response": text, "matched": True}
                    | {"label": bool(rng.random() < 0.5)}
                    | numbers
                )
        pl.DataFrame(rows).write_parquet(folder / "data" / f"train-{start:05d}.parquet")


METRICS = ("length", "diversity", "professionalism", "relevance_document", "relevance_summary", "reward", "weight")


def opening(page: Path, times: int) -> float | None:
    """Seconds from the start of navigation until the first group is shown, the median; None without Chromium."""
    import chromium

    if chromium.missing() is not None:
        return None
    found: list[float] = []
    for _ in range(times):
        with tempfile.TemporaryDirectory() as profile:
            driver = chromium.start(Path(profile))
            try:
                chromium.opened(driver, page.as_uri())
                found.append(driver.execute_script("return performance.getEntriesByName('shown')[0].startTime") / 1000)
            finally:
                driver.quit()
    return statistics.median(found)


def main() -> None:
    """Write the groups, the page, and print what that took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=1000)
    parser.add_argument("--responses", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=5000)
    parser.add_argument("--max-mb", type=float, default=60)
    parser.add_argument("--times", type=int, default=3, help="openings of the page")
    parser.add_argument("--keep", type=Path, help="folder for the data and the page")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = options.keep or Path(made)
        if not (folder / "groups").is_dir():
            # In a process of its own, so that its memory does not count.
            sizes = (options.groups, options.responses, options.tokens)
            maker = multiprocessing.get_context("spawn").Process(target=write_groups, args=(folder / "groups", *sizes))
            maker.start()
            maker.join()
        store = Store(folder / "store")
        revision = open_revision(str(folder / "groups"), store)
        before = peak()
        began = time.perf_counter()
        written = write_page(folder / "report.html", [revision], store, max_mb=options.max_mb)
        seconds = time.perf_counter() - began
        tell(options, written, seconds, (before, peak()), opening(written.path, options.times))


def peak() -> float:
    """The process's largest memory so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def tell(
    options: argparse.Namespace, written: Written, seconds: float, memory: tuple[float, float], opened: float | None
) -> None:
    """Print the figures for people and for machines."""
    rows = [
        ("groups shown", f"{written.groups:,} of {written.of:,}"),
        ("page, MB", f"{written.bytes / 1e6:.1f}"),
        ("seconds to write", f"{seconds:.1f}"),
        ("peak memory, MB", f"{memory[1]:.0f} ({memory[0]:.0f} before)"),
        ("seconds to open", "no Chromium" if opened is None else f"{opened:.2f}"),
    ]
    for label, value in rows:
        print(f"{label:<18}{value}")
    figures = {
        "groups": options.groups,
        "responses": options.responses,
        "tokens": options.tokens,
        "shown": written.groups,
        "megabytes": round(written.bytes / 1e6, 2),
        "seconds_to_write": round(seconds, 2),
        "peak_mb": round(memory[1], 1),
        "peak_mb_before": round(memory[0], 1),
        "seconds_to_open": None if opened is None else round(opened, 3),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
