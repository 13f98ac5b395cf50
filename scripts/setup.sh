#!/usr/bin/env bash
# Make .venv with the pinned environment: vLLM's GPU build where there is an NVIDIA GPU, its CPU build elsewhere.
# A second run reuses what is there; a changed pin installs again.
set -euo pipefail
cd "$(dirname "$0")/.."

python="${PYTHON:-python3}"
kind=cpu
if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then kind=gpu; fi

stamp=".venv/.installed"
wanted="$kind $(cat pyproject.toml scripts/setup.sh requirements/* | sha256sum | cut -d' ' -f1)"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then exit 0; fi

if [ ! -x .venv/bin/python ]; then "$python" -m venv .venv; fi
uv=.venv/bin/uv
if [ ! -x "$uv" ] || [ "$("$uv" --version | cut -d' ' -f2)" != "0.13.8" ]; then .venv/bin/pip install --quiet uv==0.13.8; fi

options=(--python .venv/bin/python --constraints "requirements/lock-$kind.txt" --requirements "requirements/$kind.txt" --editable '.[dev]')
if [ "$kind" = cpu ]; then
    # Built against CUDA on the package index; with them present transformers cannot import a model on a CPU.
    options+=(--excludes requirements/cpu-excludes.txt)
    # The index's torch is the CUDA build. Take a CPU build from a local wheel folder, as pip would, or from PyTorch's index.
    if [ -n "${PIP_FIND_LINKS:-}" ]; then export UV_FIND_LINKS="$PIP_FIND_LINKS"; else export UV_TORCH_BACKEND=cpu; fi
fi
echo "setup: installing the pinned $kind environment into .venv" >&2
"$uv" pip install --quiet "${options[@]}"
echo "$wanted" >"$stamp"
