.PHONY: setup demo test lint types unit clean

setup:
	@bash scripts/setup.sh

demo: setup
	@bash scripts/demo.sh

test: lint types unit

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: setup
	.venv/bin/mypy

unit: setup
	.venv/bin/pytest --numprocesses 2 --dist worksteal --quiet

clean:
	rm -rf .grace
