# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# Where `make comparison` keeps routing and finished runs, and finds recordings that are no part of the project.
COMPARISON := comparison-out
ROUTING := $(COMPARISON)/routing
FINEMOE_DATA ?= ../shared/data
JOBS ?= 2
TWINS := mixtral-8x7b-twin qwen1.5-moe-a2.7b-twin phi-3.5-moe-twin
RECORDED := $(if $(wildcard $(FINEMOE_DATA)/gpt-oss-20b/routing.npz),gpt-oss-20b) \
	$(if $(wildcard $(FINEMOE_DATA)/bigmoeonedge/gemma.route.csv),gemma-4-26b-a4b)

.PHONY: demo docs comparison anchors paper notebooks check test test-slow test-long lint types bench clean

$(VENV)/.installed: pyproject.toml
	@echo "Installing into $(VENV), which takes a few minutes" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --editable '.[models,ray,dev]'
	@touch $@

# Prints what it does and why in less than a screen and a half; docs/quickstart.md goes through the same commands slowly.
demo: $(VENV)/.installed
	@echo "1/4 RECORD  Record which experts the routers of a small Mixtral choose for 96 texts: finemoe traces collect pocket …"
	@$(BIN)/finemoe traces collect pocket --continue-text --chat-template --max-new-tokens 64 --threads 1 \
		--lookahead 1 --overwrite --out demo-out/pocket.trace
	@echo
	@echo "2/4 SIMULATE  Replay that routing with Mixtral-8x7B's sizes on six simulated RTX 3090s that can hold a quarter"
	@echo "    of the experts. Which policy waits least? finemoe sim run demo-out/pocket.trace … --brief"
	@$(BIN)/finemoe sim run demo-out/pocket.trace --sizes mixtral-8x7b --machine rtx3090x6 --cache-share 0.25 \
		--policy finemoe --policy moe-infinity --policy promoe --policy mixtral-offloading --policy deepspeed \
		--policy lru --policy belady --policy no-offload --brief --overwrite --out demo-out/results
	@$(BIN)/finemoe sim plot demo-out/results --overwrite --out demo-out/policies.png >demo-out/log.txt
	@$(BIN)/finemoe sim plot demo-out/results --stalls --overwrite --out demo-out/stalls.png >>demo-out/log.txt
	@echo
	@echo "3/4 MEASURE  Time this machine, then really offload the pocket model: finemoe validate calibrate, replay"
	@$(BIN)/finemoe validate calibrate pocket --threads 1 --overwrite --out demo-out/machine.toml >>demo-out/log.txt
	@$(BIN)/finemoe validate replay pocket --limit 32 --max-new-tokens 32 --threads 1 --policy finemoe --policy lru \
		--cache-experts 16 --detail events --record demo-out/replayed.trace --overwrite --out demo-out/measured \
		>demo-out/measured.txt
	@grep "every token and logit" demo-out/measured.txt
	@echo
	@echo "4/4 COMPARE  Simulate the same requests on the timed machine, and compare with what was measured."
	@$(BIN)/finemoe sim run demo-out/replayed.trace --machine demo-out/machine.toml --policy finemoe --policy lru \
		--cache-experts 16 --detail events --overwrite --out demo-out/simulated >>demo-out/log.txt
	@$(BIN)/finemoe validate compare demo-out/simulated demo-out/measured --brief --overwrite --plot demo-out/timelines.png
	@echo
	@echo "Open  demo-out/policies.png   which policy is fastest, and what became of each demand"
	@echo "      demo-out/stalls.png     where the time of a token goes"
	@echo "      demo-out/timelines.png  one iteration, simulated above measured"
	@echo "Next  docs/quickstart.md goes through these commands; $(BIN)/finemoe --help lists all other commands."

# All runs take about 17 minutes of processor time, and recording the traces a few more.
comparison: $(VENV)/.installed $(patsubst %,$(ROUTING)/%.trace,$(TWINS) $(RECORDED))
	$(BIN)/finemoe sim comparison --routing $(ROUTING) --store $(COMPARISON)/store --jobs $(JOBS) --out docs --overwrite

# Simulates what others have measured, and writes the errors to docs/anchors.md: about two minutes of processor time.
anchors: $(VENV)/.installed $(ROUTING)/mixtral-8x7b-twin.trace
	$(BIN)/finemoe sim anchors --routing $(ROUTING) --out docs --overwrite --store $(COMPARISON)/store --jobs $(JOBS)

# All figures and verdicts: about an hour. `make paper TIER=--quick` takes about ten minutes.
TIER ?=
paper: $(VENV)/.installed
	$(BIN)/finemoe sim paper $(TIER) --jobs $(JOBS) --overwrite --out paper-out

$(ROUTING)/%-twin.trace: | $(VENV)/.installed
	$(BIN)/finemoe traces collect $*-twin --continue-text --chat-template --max-new-tokens 64 --lookahead 1,3 \
		--threads 1 --out $@

$(ROUTING)/gpt-oss-20b.trace: | $(VENV)/.installed
	$(BIN)/finemoe traces convert npz $(FINEMOE_DATA)/gpt-oss-20b/routing.npz --model gpt-oss-20b \
		--max-tokens 64 --out $@

$(ROUTING)/gemma-4-26b-a4b.trace: | $(VENV)/.installed
	$(BIN)/finemoe traces convert route-trace $(FINEMOE_DATA)/bigmoeonedge/gemma.route.csv --out $@

# Two processes run the tests; one that has nothing left to do takes some from the other.
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist worksteal
# Laws of the parts that everything else rests on.
QUICK := tests/test_imports.py tests/common tests/policies/cache tests/policies/evictors tests/policies/prediction \
	tests/sim/engine/test_timeline.py tests/sim/engine/test_laws.py tests/sim/hardware tests/traces/format/test_trace_format.py

# A minute: lint, types and the quick tests, after every change.
check: $(VENV)/.installed lint types
	$(PYTEST) -m 'not slow and not long' $(QUICK)

# Many tests start processes: none of them has to compile what it imports.
test: $(VENV)/.installed lint types
	$(BIN)/python -m compileall -q common policies sim traces validate tests/support
	$(PYTEST) -m 'not slow and not long'

# Runs them from scratch and writes what they show into them.
notebooks: $(VENV)/.installed
	$(BIN)/python notebooks/fresh_outputs.py

docs: $(VENV)/.installed
	$(BIN)/python -m docs.write_commands

# More instances of the same laws, whole recordings, all notebooks.
test-slow: $(VENV)/.installed
	$(PYTEST) -m 'slow and not long'

# At least half a minute each: many kills in a row, long recordings, each byte of a trace changed.
test-long: $(VENV)/.installed
	$(PYTEST) -m long

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/sim_speed.py
	$(BIN)/python benchmarks/search_speed.py
	$(BIN)/python benchmarks/capture_cost.py

# Also what `make comparison` and `make paper` have computed, in up to an hour.
clean:
	rm -rf demo-out comparison-out paper-out notebooks/out .pytest_cache .mypy_cache .ruff_cache *.egg-info
