"""Measure the bytes that a push uploads, for new, partly changed and unchanged data.

Hand-made rows of the groups dataset are published five times on the test Hub of tests/support, by the ordinary client,
once through LFS and once through Xet: a first round; a second one in which half of the shards are new; a third one in
which a block of an eighth of the rows is new in every shard; a fourth one with 2.4 % more rows, which come in the
middle; the first one again. In the third case only Xet saves bytes, by the content-defined chunks of the Parquet files,
and only where a shard has many pages. In the fourth case the shards' ends matter, which the rows' own ids decide.
Prints a table and one line of JSON.

    python scripts/bench_push.py --shards 64 --rows 1000
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from builders.core.draws import query_id
from builders.core.stage import content_shards
from builders.grace_kto.columns import GROUPS_COLUMNS
from builders.grace_kto.settings import GraceKTOSettings
from builders.hub.publish import publish
from builders.settings.base import identities
from builders.store.columns import frame_of
from builders.store.manifest import Manifest, Rows, content_digest, describe_files
from builders.store.ref import round_tag
from builders.store.revision import Revision
from builders.store.shards import write_shard
from builders.store.store import Store
from training.grace_kto.pipeline import GRACE_KTO
from training.pipelines import load_config, page_of

SUPPORT = Path(__file__).resolve().parent.parent / "tests" / "support"
CASES = ("first", "half of the shards", "an eighth of each", "rows inserted", "unchanged")
INSERTED = 0.024  # share of the rows
TOKEN = "hf_bench_token"
WORDS = 160  # in a response, about 1.2 kB


def make_row(shard: int, row: int, version: int) -> dict[str, object]:
    """Make one response; its text is random and depends on the three numbers alone."""
    rng = random.Random(f"{shard} {row} {version}")
    text = " ".join(f"{rng.getrandbits(32):x}" for _ in range(WORDS))
    query = f"Write a report on {shard}, {row // 8}."
    identity = query_id(query)
    values: dict[str, object] = {
        "query_id": identity,
        "query": query,
        "round": 1,
        "response_id": f"{identity}-{row % 8}",
        "response": text,
        "document": text,
        "matched": True,
        "finish_reason": "stop",
        "num_tokens": WORDS,
        "sample_seed": row,
        "policy": "bench",
    }
    return {column.name: values.get(column.name) for column in GROUPS_COLUMNS}


def version_of(case: str, shard: int, share: float) -> int:
    """The version of a row's text in a case; 0 is that of the first round.

    Args:
        case: one of `CASES`.
        shard: number of the shard.
        share: the row's place in its shard, in [0, 1).
    """
    if case == "half of the shards":
        return shard % 2
    # The block's place moves from shard to shard, so that it is not always the first page of the file.
    return 2 if case == "an eighth of each" and int(share * 8) == shard % 8 else 0


def shards_of(case: str, shards: int, rows: int) -> list[list[dict[str, object]]]:
    """Make the rows of a case, by shard; their ids, and so the shards' ends, are those of the first round."""
    places = [(shard, row) for shard in range(shards) for row in range(rows)]
    if case == "rows inserted":
        middle = len(places) // 2
        places[middle:middle] = [(shards, row) for row in range(round(INSERTED * len(places)))]
    ids = [str(make_row(shard, row, 0)["query_id"]) for shard, row in places]
    cut = [shard.spec for shard in content_shards(ids, None, rows)]
    return [
        [
            make_row(shard, row, version_of(case, number, place / size))
            for place, (shard, row) in enumerate(places[start : start + size])
        ]
        for number, (start, size) in enumerate(cut)
    ]


def add_round(store: Store, config: GraceKTOSettings, case: str, shards: int, rows: int) -> Revision:
    """Add the groups dataset of one case to the store, as a round of its own.

    Args:
        store: the local store.
        config: the configuration.
        case: one of `CASES`.
        shards: number of shards, about.
        rows: rows per shard, about.
    """
    # Unchanged data is the first round once more, under the same tag.
    round_ = 1 if case == "unchanged" else 1 + CASES.index(case)
    work, staged = store.root / ".work" / "shards", store.root / ".work" / "snapshot"
    work.mkdir(parents=True, exist_ok=True)
    (staged / "data").mkdir(parents=True)
    counts = {}
    made = shards_of(case, shards, rows)
    for number, part in enumerate(made):
        name = f"data/train-{number:05d}-of-{len(made):05d}.parquet"
        write_shard(frame_of(part, GROUPS_COLUMNS), GROUPS_COLUMNS, work / "shard.parquet", {"read": len(part)})
        (work / "shard.parquet").rename(staged / name)
        counts[name] = len(part)
    files = describe_files(staged, [staged / name for name in counts], counts)
    manifest = Manifest(
        pipeline=GRACE_KTO.name,
        stage="sample",
        stage_version=GRACE_KTO.stage("sample").version,
        code_version="bench",
        repo="local/bench-groups",
        round=round_,
        fingerprint="0" * 64,
        random_seed=0,
        configuration=identities(config, GRACE_KTO.stage("sample").sections),
        rows=Rows(read=sum(counts.values()), written=sum(counts.values())),
        files=files,
        digest=content_digest(files),
    )
    return store.add(staged, manifest, [round_tag(round_)])


def push_all(folder: Path, shards: int, rows: int) -> None:
    """Publish the cases one after the other; print what the server logged of each, one JSON object per line."""
    sys.path.insert(0, str(SUPPORT))
    from hub_server import RemoteHub

    hub = RemoteHub(os.environ["HF_ENDPOINT"])
    config = load_config("tiny", [], str(folder / "store"))
    store = Store(folder / "store")
    for case in CASES:
        revision = add_round(store, config, case, shards, rows)
        hub.clear_log()
        publish(revision, config, page_of)
        log = hub.log
        size = sum(path.stat().st_size for path in revision.data_files())
        found = {"case": case, "size": size, "uploaded": log.uploaded(), "commits": log.count("commit")}
        print(json.dumps(found), flush=True)


def measure(mode: str, shards: int, rows: int) -> list[dict[str, object]]:
    """Run all cases in a process of its own, since the client reads its settings once, on import.

    Args:
        mode: LFS or Xet.
        shards: number of shards.
        rows: rows per shard.

    Returns:
        One record per case.
    """
    sys.path.insert(0, str(SUPPORT))
    from hub_server import serve_in_process

    with tempfile.TemporaryDirectory() as name, serve_in_process() as hub:
        hub.add_token(TOKEN, "bench")
        # None of the caller's Hub settings: nothing may reach the real Hub.
        variables = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        variables |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": name, "HF_TOKEN": TOKEN, "NO_PROXY": "127.0.0.1"}
        variables |= {"HF_HUB_DISABLE_XET": "1"} if mode == "LFS" else {}
        command = [sys.executable, __file__, "--folder", name, "--shards", str(shards), "--rows", str(rows)]
        done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=True)
    return [{"mode": mode, **json.loads(line)} for line in done.stdout.splitlines()]


def main() -> None:
    """Parse the command line, measure, print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=64)
    parser.add_argument("--rows", type=int, default=1000, help="rows per shard")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # set in the process that pushes
    options = parser.parse_args()
    if options.folder is not None:
        push_all(options.folder, options.shards, options.rows)
        return
    found = [row for mode in ("LFS", "Xet") for row in measure(mode, options.shards, options.rows)]
    print(f"{'mode':6}{'what is new':22}{'size, bytes':>14}{'uploaded':>14}{'share':>8}{'commits':>9}")
    for row in found:
        share = int(str(row["uploaded"])) / int(str(row["size"]))
        print(
            f"{row['mode']:6}{row['case']:22}{row['size']:>14,}{row['uploaded']:>14,}{share:>8.1%}{row['commits']:>9}"
        )
    print(json.dumps({"benchmark": "push", "shards": options.shards, "rows": options.rows, "cases": found}))


if __name__ == "__main__":
    main()
