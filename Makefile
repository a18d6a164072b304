# Targets. Each creates the environment that it needs.
#   make install    creates .venv with the tested versions
#   make quickstart runs the whole loop on synthetic data in ten minutes; OUT=folder SEED=0
#   make test       all fast tests, without network and torch; under five minutes on two cores
#   make test-slow  tests that train or compile for tens of seconds
#   make test-kill  kills and resumes training (one and two processes), preparation and collection
#   make test-faults kills and faults in a full-size collection: 2,000 dialogues, 50 kills
#   make test-torch parity with transformers, torch and TRL, in a separate environment (CPU is enough)
#   make test-inspect logs for Inspect, in a separate environment
#   make test-alpaca AlpacaEval's length-controlled win rate by its package, in a separate environment
#   make test-browser the pages of `annotate` and `view` in Chromium, which it installs with apt-get
#   make test-plan  compiles the shipped configs and kernels for TPUs and GPUs you don't have
#   make test-newest version-dependent tests with Python 3.12 or 3.13 and the newest jax
#   make test-gpu-bench the benchmark for one GPU at toy size, with Python 3.12 and the versions of its machine
#   make test-vllm  token parity with vLLM on a CPU, and a collection with it; separate environment
#   make check      format, lint, types, import contracts; run it before each commit
#   make docs       builds the documentation in site/; fails on broken links
#   make ask-real   trains small askers on real dialogues: DATA=wildchat.jsonl TOKENIZER=tokenizer.model

SHELL := /bin/bash
# Without bytecode files, every process compiles its libraries again: 3 seconds for jax.
unexport PYTHONDONTWRITEBYTECODE
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin

# Two tested sets of versions: jax 0.10 for Python 3.11, the newest jax for later versions.
CONSTRAINTS := $(shell $(PYTHON) -c 'import sys; print("constraints.txt" if sys.version_info < (3, 12) else "constraints-newest.txt")')
# Each candidate is run, since a name on the PATH may be a pyenv shim without a Python.
NEWEST_PYTHON ?= $(shell for python in python3.13 python3.12 $$(ls -d ~/.pyenv/versions/3.1[23].*/bin/python 2>/dev/null | sort -rV); do \
  "$$python" -c 'import ensurepip' 2>/dev/null && echo "$$python" && break; done)
# The Python of the machine that scripts/bench/gpu was written for.
PYTHON312 ?= $(shell for python in python3.12 $$(ls -d ~/.pyenv/versions/3.12.*/bin/python 2>/dev/null); do \
  "$$python" -c 'import ensurepip' 2>/dev/null && echo "$$python" && break; done)
# Tests that depend most on the versions of Python, jax, flax, orbax, transformers and scipy.
NEWEST_TESTS := tests/core tests/report tests/model tests/losses tests/test_sharding.py \
  tests/train/test_step.py tests/train/test_loop.py tests/weights/test_checkpoints.py \
  tests/weights/test_convert.py tests/serve/test_jax_engine.py

comma := ,

# An environment for extras ($2), or for the packages of a file ($3), layered on $(VENV): pip sees its
# packages and installs only what is missing.
define layered
	$(PYTHON) -m venv $(dir $1)
	site=$$($(dir $1)bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	  $(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$$site/base.pth"
	$(dir $1)bin/python -m pip install --quiet --no-compile $(if $3,--no-deps -r $3 -e .,-c $(CONSTRAINTS) -e '.[dev$(comma)$2]')
	@touch $1
endef

# Tests that need neither hardware, network nor another environment.
HERE := not nightly and not browser and not gpu and not tpu and not torch and not inspect and not alpaca and not vllm and not plan and not network
FAST := not slow and $(HERE)
SLOW := slow and $(HERE)

.PHONY: install quickstart test test-slow test-kill test-faults test-torch test-inspect test-alpaca test-browser test-plan has-newest test-newest test-gpu-bench test-vllm check docs format ask-real clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "parrot_jax needs Python 3.11 or newer, found: $$($(PYTHON) --version); set PYTHON=..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile -c $(CONSTRAINTS) -e '.[dev]'
	@touch $@

quickstart: install
	$(BIN)/parrot quickstart --out $(or $(OUT),runs/quickstart) --seed $(or $(SEED),0)

test: install
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile -m "$(FAST)" $(ARGS)

test-slow: install
	$(BIN)/python -m pytest -n 2 --dist load -m "$(SLOW)" tests --ignore tests/kill --ignore tests/faults $(ARGS)

test-kill: install
	$(BIN)/python -m pytest -n 2 --dist load -m "$(SLOW)" tests/kill tests/faults $(ARGS)

test-faults: install
	$(BIN)/python -m pytest -m nightly tests/faults $(ARGS)

test-torch: $(VENV)-torch/.installed
	$(VENV)-torch/bin/python -m pytest -m "torch and not nightly" tests $(ARGS)

# A separate layered environment, since torch is large and rarely needed.
$(VENV)-torch/.installed: $(VENV)/.installed
	$(call layered,$@,torch$(comma)trl)

test-inspect: $(VENV)-inspect/.installed
	$(VENV)-inspect/bin/python -m pytest -m inspect tests/evaluate $(ARGS)

# Without dependencies: Inspect wants an older fsspec than gcsfs, which is part of dev.
$(VENV)-inspect/.installed: $(VENV)/.installed constraints-inspect.txt
	$(call layered,$@,,constraints-inspect.txt)

test-alpaca: $(VENV)-alpaca/.installed
	$(VENV)-alpaca/bin/python -m pytest -m "alpaca and not network" tests/evaluate $(ARGS)

$(VENV)-alpaca/.installed: $(VENV)/.installed
	$(call layered,$@,alpaca)

test-browser: install
	scripts/chromium.sh
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "browser and not nightly" tests $(ARGS)

test-plan: $(VENV)-plan/.installed
	$(VENV)-plan/bin/python -m pytest -n 2 --dist loadgroup -m "plan and not nightly" tests $(ARGS)

# A separate environment, since an installed libtpu prints at every import of jax.
$(VENV)-plan/.installed: $(VENV)/.installed
	$(call layered,$@,cuda13$(comma)tpu)

has-newest:
	@test -n "$(NEWEST_PYTHON)" || \
	  { echo "no Python 3.12 or 3.13 was found; set NEWEST_PYTHON=/path/to/python3.13"; exit 2; }

test-newest: has-newest
	$(MAKE) PYTHON="$(NEWEST_PYTHON)" VENV=.venv-newest install
	.venv-newest/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile -m "$(HERE)" $(NEWEST_TESTS) $(ARGS)

test-gpu-bench: .venv-gpu-bench/.installed
	PYTHON=.venv-gpu-bench/bin/python scripts/bench/gpu/prepare.sh
	TOY=1 PYTHON=.venv-gpu-bench/bin/python scripts/bench/gpu/run.sh all --budget 1200 --out runs/gpu-toy

.venv-gpu-bench/.installed: scripts/bench/gpu/reference.txt
	@test -n "$(PYTHON312)" || { echo "no Python 3.12 was found; set PYTHON312=/path/to/python3.12"; exit 2; }
	$(PYTHON312) -m venv .venv-gpu-bench
	.venv-gpu-bench/bin/python -m pip install --quiet -r scripts/bench/gpu/reference.txt
	@touch $@

test-vllm: install $(VENV)-vllm/.installed
	$(BIN)/python -m pytest -m vllm tests/vllm $(ARGS)

# torch first and with its dependencies, which differ between builds.
$(VENV)-vllm/.installed: constraints-vllm.txt
	$(PYTHON) -m venv $(VENV)-vllm
	$(VENV)-vllm/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-vllm/bin/python -m pip install --quiet -c constraints-vllm.txt torch
	$(VENV)-vllm/bin/python -m pip install --quiet --no-deps -r constraints-vllm.txt
	@touch $@

check: install
	BIN=$(BIN) scripts/check.sh

# --strict makes warnings errors, but not with --quiet. The variable silences a notice of the theme
# about its successor.
docs: $(VENV)-docs/.installed
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/mkdocs build --strict
	@echo "open site/index.html; search needs a server: python3 -m http.server -d site"

$(VENV)-docs/.installed: constraints-docs.txt
	$(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/python -m pip install --quiet --no-compile --no-deps -r constraints-docs.txt
	@touch $@

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

ask-real: install
	@test -n "$(DATA)" -a -n "$(TOKENIZER)" || \
	  { echo "usage: make ask-real DATA=dialogues.jsonl TOKENIZER=tokenizer.model"; exit 2; }
	$(BIN)/python scripts/bench/ask_wildchat.py --data "$(DATA)" --tokenizer "$(TOKENIZER)" --small

clean:
	rm -rf $(VENV) site .parrot_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
