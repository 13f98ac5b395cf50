"""RationAlign on a laptop: eight editing tasks, reasons by a rule-based teacher, a reward model, alignment.

Prints what each dataset holds, and the assistant before and after its alignment on held-out texts.

    python -m scripts.demo_rationalign
"""

import argparse
from pathlib import Path

from builders.core.console import quiet_libraries
from builders.core.evaluation_table import Table
from builders.core.run import run
from builders.report import console
from training.pipelines import evaluate_policies, load_config
from training.rationalign.pipeline import RATIONALIGN


def main() -> None:
    """Build everything up to the aligned assistant and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", help="folder of the local store; default: as the preset says")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="settings")
    parser.add_argument("--output", type=Path, default=Path(".grace/evaluation"), help="folder of the comparison")
    options = parser.parse_args()
    quiet_libraries()
    config = load_config("tiny-rationalign", options.settings, options.store)
    rows = [
        (result.revision.repo, str(manifest.rows.written), str(sum(manifest.rows.dropped.values())))
        for result in run(RATIONALIGN, config, "mpo")
        if (manifest := result.revision.manifest) is not None and manifest.kind == "dataset"
    ]
    found = evaluate_policies(config, [], options.output)
    console.print_evaluation([Table("Datasets", ("dataset", "rows", "left out"), rows), found], found.lines)


if __name__ == "__main__":
    main()
