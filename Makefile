# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow lint types bench clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[models,ray,dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python -m traces collect pocket --continue-text --chat-template --max-new-tokens 64 --threads 1 \
		--lookahead 1 --overwrite --out demo-out/pocket.trace
	rm -rf demo-out/results
	$(BIN)/python -m sim run demo-out/pocket.trace --sizes mixtral-8x7b --machine rtx3090x6 --cache-share 0.25 \
		--policy finemoe --policy moe-infinity --policy moe-infinity-code --policy promoe --policy mixtral-offloading \
		--policy mixtral-offloading-released --policy deepspeed --policy lru --policy belady --policy clairvoyant \
		--policy no-offload --out demo-out/results
	$(BIN)/python -m sim plot demo-out/results --out demo-out/policies.png
	$(BIN)/python -m sim plot demo-out/results --stalls --out demo-out/stalls.png
	rm -rf demo-out/measured demo-out/simulated
	$(BIN)/python -m validate calibrate pocket --threads 1 --out demo-out/machine.toml
	$(BIN)/python -m validate replay pocket --limit 32 --max-new-tokens 32 --threads 1 --policy finemoe --policy lru \
		--cache-experts 16 --detail events --record demo-out/replayed.trace --overwrite --out demo-out/measured
	$(BIN)/python -m sim run demo-out/replayed.trace --machine demo-out/machine.toml --policy finemoe --policy lru \
		--cache-experts 16 --detail events --out demo-out/simulated
	$(BIN)/python -m validate compare demo-out/simulated demo-out/measured --plot demo-out/timelines.png

test: $(VENV)/.installed lint types
	$(BIN)/python -m pytest -m 'not slow' -n 2 -q

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow -q

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/sim_speed.py
	$(BIN)/python benchmarks/search_speed.py
	$(BIN)/python benchmarks/capture_cost.py

clean:
	rm -rf demo-out .pytest_cache .mypy_cache .ruff_cache *.egg-info
