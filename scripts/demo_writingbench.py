"""WritingBench on a laptop: its data by a rule-based teacher, a writer and a critic, and the critic beside the teacher.

The writer and the critic are trained side by side, each in a process of its own. Prints what was selected, and how well
the critic agrees with the teacher on queries that it never saw.

    python -m scripts.demo_writingbench
"""

import argparse
from pathlib import Path

from builders.core.console import quiet_libraries
from builders.core.evaluation_table import Table
from builders.core.run import materialise
from builders.report import console
from builders.store.store import Store
from training.pipelines import evaluate_policies, load_config
from training.writingbench.pipeline import WRITINGBENCH


def main() -> None:
    """Build both models and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", help="folder of the local store; default: as the preset says")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="settings")
    parser.add_argument("--output", type=Path, default=Path(".grace/evaluation"), help="folder for the JSON")
    options = parser.parse_args()
    quiet_libraries()
    config = load_config("tiny-writingbench", options.settings, options.store)
    materialise(WRITINGBENCH, config, {"writer": "writer", "critic": "critic"})
    found = evaluate_policies(config, [], options.output)
    store = Store(Path(config.store))
    rows = []
    for stage in ("refine", "criteria", "respond", "rate", "select", "critique"):
        revision = store.find(WRITINGBENCH.repo(WRITINGBENCH.stage(stage), config), "main")
        if revision is not None and revision.manifest is not None:
            score = revision.manifest.metrics.get("score")
            mean = "" if score is None else f"{score.mean:.2f}"
            rows.append((revision.repo, str(revision.manifest.rows.written), mean))
    console.print_evaluation([Table("Datasets", ("dataset", "rows", "mean score"), rows), found], found.lines)


if __name__ == "__main__":
    main()
