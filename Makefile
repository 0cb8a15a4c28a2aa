# Thin on purpose: every line is a command one could type. Each target sets up what it needs.
.PHONY: setup demo serve test test-all test-peer test-server test-slicer lint docs release bench bench-attacks bench-strength attacks

# The environments, made again only when the project's dependencies changed: .venv for everything, .venv-slicer for the
# tests of the Slicer module.
setup: .venv/ready .venv-slicer/ready

.venv/ready: pyproject.toml constraints.txt scripts/setup
	sh scripts/setup

.venv-slicer/ready: pyproject.toml constraints.txt scripts/setup
	sh scripts/setup slicer

# Attack the shipped case and write a report.
demo: .venv/ready
	.venv/bin/perturbox demo

# Serve the built-in models and all attacks on this machine; STUDIES=folder of scans.
serve: .venv/ready
	.venv/bin/perturbox serve $(if $(STUDIES),--studies "$(STUDIES)")

# The ordinary tests, one process a core (a file's tests stay together: they share what is costly to make).
SPREAD = -n auto --dist loadfile --durations=20
test: test-server test-slicer

# All tests: also the slow ones and those that install a peer to compare with.
test-all: MARKS = -m ""
test-all: test-server test-slicer

# Only those that install a peer: nnU-Net, MONAI's workflow and others, minutes each. PERTURBOX_PEER names a Python that has
# nnU-Net and pytorch-ignite, so that none is made.
test-peer: .venv/ready
	.venv/bin/python -m pytest -m peer -s --timeout 3600

test-server: .venv/ready
	.venv/bin/python -m pytest $(SPREAD) $(MARKS)

# Where .venv-slicer couldn't be made, setup has said why.
test-slicer: .venv/ready .venv-slicer/ready
	if [ -e .venv-slicer/ready ]; then .venv-slicer/bin/python -m pytest tests/slicer $(SPREAD) $(MARKS); fi

# Style, format, types and the direction of dependencies.
lint: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright
	.venv/bin/lint-imports

# Build the documentation site into build/site.
docs: .venv-docs/ready
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet
	@echo "Open build/site/index.html in a browser."

.venv-docs/ready: pyproject.toml constraints.txt scripts/setup
	sh scripts/setup docs

# Build the wheel and the sdist into dist/, and try the wheel in a clean environment.
release: .venv/ready
	sh scripts/release

# Measure speed and memory; writes docs/benchmarks.md.
bench: .venv/ready
	.venv/bin/python -m benchmarks

# Write docs/attacks.md and the list of attacks from the recipes, and draw the pictures it lacks: half a minute each.
attacks: .venv/ready
	.venv/bin/python -m benchmarks catalogue --pictures

# How strong the default and others are for their effort; writes its section of docs/benchmarks.md. Goes on where it was
# stopped; hours in all, the cheap scenes first.
bench-strength: .venv/ready
	.venv/bin/python -m benchmarks strength

# Run every attack for a few steps; writes its section of docs/benchmarks.md. Goes on where it was stopped.
bench-attacks: .venv/ready
	.venv/bin/python -m benchmarks attacks
