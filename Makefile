# make demo       install, train on scikit-learn's digits, sample by latent MALA
# make test       install, check the style, run the quick tests
# make test-slow  run the others, as long again
# make docs       build the site into build/site, executing the tutorials: minutes; a
#                 broken link, or a tutorial that fails, is an error
# make wheel      build the wheel and use it in a fresh environment elsewhere
# make install    what demo and test begin with
# All need only Python >= 3.11; PYTHON=python3.12 chooses another interpreter, and
# CONSTRAINTS= leaves the versions to pip where constraints.txt names a tested set.

PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist worksteal --durations=15

.PHONY: demo test test-slow docs wheel install clean

install: .venv/installed

.venv/installed: requirements.txt $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "megjax needs Python >= 3.11, $(PYTHON) is older: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  -r requirements.txt $(CONSTRAINTS:%=-c %)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

demo: install
	$(BIN)/python train.py --config=configs/digits.py --workdir=runs/demo
	$(BIN)/python sample.py --workdir=runs/demo --steps=100
	@echo "Look at runs/demo/samples: before.png, after.png, timeline.png, chains.gif"

test: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(PYTEST) -m "not slow"

test-slow: install
	$(PYTEST) -m slow

docs: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[docs]" \
	  $(CONSTRAINTS:%=-c %)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

wheel:
	.ci/wheel

clean:
	rm -rf .venv build megjax.egg-info runs
