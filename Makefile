PYTHON ?= python3
BIN := .venv/bin
OUT ?= runs/demo
AUDIO ?=
BASE ?=
SEED ?= 0
NAME ?= codec

.DEFAULT_GOAL := help
.PHONY: help env demo test check bench docs js clean

help:
	@echo "make demo    compose music, prepare, train, sample, evaluate: open $(OUT)/index.html   [AUDIO=DIR BASE=MODEL|none SEED=N OUT=DIR]"
	@echo "make test    run all tests"
	@echo "make check   format, lint, types, layers, presets, docs"
	@echo "make bench   compare with the reference: benchmarks/results/NAME.json   [NAME=codec]"
	@echo "make docs    regenerate docs/config.md and the tables of docs/codec.md and docs/evaluation.md"
	@echo "make js      check the types of the live page's script (needs npx from Node.js)"
	@echo "make env     create the environment in .venv, which the others use"

env: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=python3.12 …')"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --editable ".[demo,dev,optimizers,play,ray,submitit]"
	$(BIN)/python -m compileall -qq -j 0 .venv/lib || true  # pip compiles on one core; template files that are not Python fail
	touch $@

demo: env
	$(BIN)/riffusion demo out="$(OUT)" seed=$(SEED) $(if $(AUDIO),audio_dir="$(AUDIO)") $(if $(BASE),base="$(BASE)")

test: env
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not real_time" --numprocesses 3 --dist loadfile --no-loadscope-reorder --durations=30
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m real_time --durations=10

check: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m riffusion_train.config.reference --check docs/config.md
	$(BIN)/python -m benchmarks.codec_table --check docs/codec.md
	$(BIN)/python -m benchmarks.judge_table --check docs/evaluation.md
	$(BIN)/python -m pytest --quiet tests/unit/config tests/unit/test_code_shape.py

bench: env
	$(BIN)/python -m benchmarks $(NAME)

docs: env
	$(BIN)/python -m riffusion_train.config.reference docs/config.md
	$(BIN)/python -m benchmarks.codec_table docs/codec.md
	$(BIN)/python -m benchmarks.judge_table docs/evaluation.md

js:
	npx --yes --package typescript@5 tsc --project jsconfig.json

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
