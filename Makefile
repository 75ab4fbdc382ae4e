# What CI does, in pieces. Everything runs in .venv, made from constraints.txt.
BIN := .venv/bin

.PHONY: setup test slow sweep mutants reliability zoo lint types ci bench plan docs pictures

setup:
	python3 -m venv .venv
	$(BIN)/pip install -c constraints.txt pip
	$(BIN)/pip install -c constraints.txt --build-constraint constraints.txt -e ".[dev]"

test:
	$(BIN)/pytest

slow:
	$(BIN)/pytest -m slow

# The default suite in other circumstances, which may change nothing: two threads, PyTorch's own
# kernels in place of oneDNN's, those of older processors, another order. An hour and more.
sweep:
	OMP_NUM_THREADS=2 $(BIN)/pytest $(TESTS)
	COSTSIM_TEST_ONEDNN=off $(BIN)/pytest $(TESTS)
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 $(BIN)/pytest $(TESTS)
	COSTSIM_TEST_ORDER=1 $(BIN)/pytest $(TESTS)

# Wrong lines planted in a copy of the tree, one at a time: the tests must notice each. Minutes.
mutants:
	$(BIN)/python tests/mutants.py

# Faults done on purpose, into the table of docs/reliability.md; some take root. Hours.
reliability:
	PYTHONPATH=tests $(BIN)/python -m campaign --write docs/reliability.md

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

ci:
	.ci/run

bench:
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

# The documentation as static pages in build/docs: open build/docs/index.html.
docs:
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# The pictures of README and documentation; needs Chromium.
pictures:
	$(BIN)/python docs/pictures/make.py

plan:
	$(BIN)/costsim plan --device jetson-nano

# Other people's networks as they come, into docs/models.md. Minutes.
zoo:
	$(BIN)/python benchmarks/models.py --write docs/models.md
