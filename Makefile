# Test processes at a time; `make test JOBS=8` on a larger machine.
JOBS ?= 2
# Where this is set, every process compiles torch, transformers and TRL anew: 10 s each instead of once.
unexport PYTHONDONTWRITEBYTECODE
PYTEST = .venv/bin/pytest --numprocesses $(JOBS) --dist worksteal --quiet

.PHONY: help setup demo demo-writingbench demo-rationalign check test lint types unit quick large mishaps clean

help:  ## list these targets
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 8

setup:  ## make .venv with the pinned environment; does nothing when it is up to date
	@bash scripts/setup.sh

demo: setup  ## the whole loop on the tiny preset, in minutes, without a GPU
	@bash scripts/demo.sh

demo-writingbench: setup  ## requests, criteria, ratings, a writer and a critic on a rule-based teacher, in minutes
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 .venv/bin/python -m scripts.demo_writingbench

demo-rationalign: setup  ## edits with reasons, a reward model and an aligned assistant on a generated world, in minutes
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 .venv/bin/python -m scripts.demo_rationalign

# Types are checked beside the tests: mypy uses one core.
check: lint  ## lint, types and the tests that are not slow
	@$(MAKE) --no-print-directory --jobs 2 types quick

test: lint  ## lint, types and every test that needs neither a GPU nor the real Hub
	@$(MAKE) --no-print-directory --jobs 2 types unit

lint: setup  ## ruff: rules and format
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: setup  ## mypy, strict
	.venv/bin/mypy

unit: setup  ## the tests alone
	$(PYTEST)

quick: setup
	$(PYTEST) -m 'not live and not gpu and not large and not slow'

large: setup  ## the tests on real shapes of public models: minutes, 12 GB
	.venv/bin/pytest --quiet -m 'large and not live and not gpu'

mishaps: setup  ## try some 340 mistakes and damages on the commands
	.venv/bin/python -m scripts.mishaps --jobs $(JOBS)

clean:  ## remove what the demo and the tests made, the store included
	rm -rf .grace
