# make demo   install, train on scikit-learn's digits, sample by latent MALA
# make test   install, check the style, run the tests
# Both need only Python >= 3.11; PYTHON=python3.12 chooses another interpreter.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test install clean

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

test: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "grain>=0.2.10"
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --durations=15

clean:
	rm -rf .venv runs
