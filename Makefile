# Thin on purpose: every line is a command one could type. Each target sets up what it needs.
.PHONY: setup demo serve test test-all lint bench

# The environment in .venv, made anew only when the project's dependencies changed.
setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt scripts/setup
	sh scripts/setup

# Attack the shipped case and write a report.
demo: setup
	.venv/bin/perturbox demo

# Serve the built-in models and all attacks on this machine; STUDIES=folder of scans.
serve: setup
	.venv/bin/perturbox serve $(if $(STUDIES),--studies "$(STUDIES)")

# The ordinary tests.
test: setup
	.venv/bin/python -m pytest

# All tests: also the slow ones and those that install a peer to compare with.
test-all: setup
	.venv/bin/python -m pytest -m ""

# Style, format, types and the direction of dependencies.
lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright
	.venv/bin/lint-imports

# Measure speed and memory; writes docs/benchmarks.md.
bench: setup
	.venv/bin/python -m benchmarks
