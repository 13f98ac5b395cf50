"""Turn the metrics of scores.csv into ranks, rewards, weights and labels, as the stage `calibrate` does (eq. 5-10).

python examples/calibrate_scores.py [SCORES.csv]        # needs neither torch nor a model
"""

import sys
from pathlib import Path

import polars as pl

from builders.grace_kto import calibrate_frame

source = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "scores.csv"
weights = calibrate_frame(pl.read_csv(source))
print(weights.select("response_id", "rank_sum", "reward", "weight", "label"))
