#!/usr/bin/env bash
# The semi-online loop on the tiny preset: a world, models made from scratch, twenty-four rounds, and what they changed.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" HF_HUB_OFFLINE=1
.venv/bin/grace loop --config tiny
.venv/bin/grace evaluate --config tiny sft local/tiny-policy@round-012 local/tiny-policy@round-024
