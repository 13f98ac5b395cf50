#!/usr/bin/env bash
# Writing assistants before and after alignment, with and without reasons, and the parts of the loss; see the module.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" HF_HUB_OFFLINE=1
exec .venv/bin/python -m scripts.compare_alignment "$@"
