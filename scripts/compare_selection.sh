#!/usr/bin/env bash
# Writers trained on all responses, on a random half, on the judge's half and on a critic's half; see the module.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" HF_HUB_OFFLINE=1
exec .venv/bin/python -m scripts.compare_selection "$@"
