# `make demo` and `make test` need Python 3.11+ and make; everything else comes from package registries into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

ENVIRONMENT_EXTRAS := embedded,registry,charts,test

.PHONY: demo test test-registry chaos chaos-deliveries simulate bench bench-connectors bench-deliveries bench-explain bench-mirror bench-sync lint up clean generate

$(VENV)/ready: setup.cfg pyproject.toml infra/constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c infra/constraints.txt -e '.[$(ENVIRONMENT_EXTRAS)]'
	@touch $@

demo: $(VENV)/ready          ## the story of a hotel check-out, on real parts, every step checked
	$(BIN)/loyalty demo

up: $(VENV)/ready            ## the embedded stack and the pipeline, to explore
	$(BIN)/loyalty up

# Some hundred processes start meanwhile: byte code that is not kept would be compiled anew in each.
test: $(VENV)/ready          ## all tests, on real parts
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test-registry: $(VENV)/ready ## the codec against a real schema registry; downloads 142 MB once
	$(BIN)/python -m pytest -m registry tests/schemas

# SEED, EVENTS, KILLS and WORKERS override; ARGS="--broker-storm 100 --workers 2" hunts faults of a dying broker alone.
CHAOS_ARGS = $(if $(SEED),--seed $(SEED)) $(if $(EVENTS),--events $(EVENTS)) $(if $(KILLS),--kills $(KILLS)) $(if $(WORKERS),--workers $(WORKERS))

chaos: $(VENV)/ready         ## a storm of kill -9, pauses and restarts over the real pipeline, then everything is recounted; some ten minutes
	$(BIN)/python -m tests.chaos $(CHAOS_ARGS) $(ARGS)

chaos-deliveries: $(VENV)/ready ## a storm of kill -9, pauses and failing receivers over webhooks, then every request is recounted; a quarter of an hour
	$(BIN)/python -m tests.chaos.deliveries $(if $(SEED),--seed $(SEED)) $(if $(EVENTS),--events $(EVENTS)) $(if $(KILLS),--kills $(KILLS)) $(ARGS)

# SEED, STEPS, SEEDS and MINUTES: a failure prints the line that replays it. MINUTES goes on with seed after seed.
SIMULATE_ARGS = $(if $(SEED),--seed $(SEED)) $(if $(STEPS),--steps $(STEPS)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(MINUTES),--minutes $(MINUTES))

simulate: $(VENV)/ready      ## the pipeline in one process, months in seconds: seeded clients and faults, every invariant checked
	$(BIN)/python -m tests.simulation $(SIMULATE_ARGS) $(ARGS)

bench: $(VENV)/ready         ## the engine beside its peers and beside bare loops; takes half an hour and wants a quiet machine
	$(BIN)/python -m tests.bench $(ARGS)

bench-connectors: $(VENV)/ready ## writes to each connected system's fake beside a bare loop of the same calls; ARGS="--quick" is short
	$(BIN)/python -m tests.bench.connectors $(ARGS)

bench-deliveries: $(VENV)/ready ## what webhooks can do beside a bare loop, and beside destinations that never answer; ARGS="--quick" is short
	$(BIN)/python -m tests.bench.deliveries $(ARGS)

bench-explain: $(VENV)/ready   ## how long `loyalty explain` takes among ten million entries; a quarter of an hour; ARGS="--entries 200000" is short
	$(BIN)/python -m tests.bench.explain $(ARGS)

bench-mirror: $(VENV)/ready    ## the ClickHouse mirror beside a bare loop of the same inserts; ARGS="--quick" is short, "--load 1000" adds the lag
	$(BIN)/python -m tests.bench.mirror $(ARGS)

bench-sync: $(VENV)/ready    ## a flush of what has waited beside a bare loop of the same reads and writes; ARGS="--quick" is short
	$(BIN)/python -m tests.bench.sync $(ARGS)

lint: $(VENV)/ready          ## style and types
	$(BIN)/flake8 streams schemas sinks infra tests
	$(BIN)/mypy

generate: $(VENV)/ready      ## records, AsyncAPI and README tables from their sources
	$(BIN)/python -m schemas.generate
	$(BIN)/python -m schemas.asyncapi
	$(BIN)/python -m infra.readme

clean:                       ## forget the environment and the embedded stack's data
	rm -rf $(VENV) .loyalty build *.egg-info
