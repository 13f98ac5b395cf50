#!/usr/bin/env bash
# Make .venv with the pinned environment: every extra, and vLLM's GPU build where there is an NVIDIA GPU, its CPU build
# elsewhere. A second run reuses what is there; a changed pin installs again.
set -euo pipefail
cd "$(dirname "$0")/.."

python="${PYTHON:-python3}"
kind=cpu
if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then kind=gpu; fi
lock="requirements/lock-$kind.txt"

stamp=".venv/.installed"
wanted="$kind $(cat pyproject.toml scripts/setup.sh requirements/* | sha256sum | cut -d' ' -f1)"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then exit 0; fi

echo "setup: installing the pinned $kind environment into .venv" >&2
if [ ! -x .venv/bin/python ]; then "$python" -m venv .venv; fi
.venv/bin/pip install --quiet --constraint "$lock" uv

options=(--python .venv/bin/python --constraints "$lock" --build-constraints "$lock")
if [ "$kind" = gpu ]; then
    options+=(--editable '.[all,vllm,dev]')
else
    options+=(--editable '.[all,dev]' --requirements requirements/cpu.txt)
    # Built against CUDA on the package index; with them present transformers cannot import a model on a CPU.
    options+=(--excludes requirements/cpu-excludes.txt)
    # The index's torch is the CUDA build. Take a CPU build from a local wheel folder, as pip would, or from PyTorch's index.
    if [ -n "${PIP_FIND_LINKS:-}" ]; then export UV_FIND_LINKS="$PIP_FIND_LINKS"; else export UV_TORCH_BACKEND=cpu; fi
fi
.venv/bin/uv pip install --quiet "${options[@]}"
echo "$wanted" >"$stamp"
