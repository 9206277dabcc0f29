# `make help` lists what can be asked for. Variables: PYTHON (3.11 or newer), VENV, ARGS (passed on by run, test and soak),
# WORKERS (test processes), CYCLES (of crash), DEATHS (of notices), JOBS (of brokers and hosts), CUTS (of powercut), KILLS (of workers),
# ZOMBIES, KEYS, SCALE (of slow), ROUNDS and SEED (of fuzz),
# COVERAGE=1 (measure while testing), COVERED (percent that must be covered then), UPGRADE=1 (let `make lock` choose newer versions).

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= logical
ARGS ?=
COVERAGE ?=
COVERED ?= 95
UPGRADE ?=
CYCLES ?= 1000
DEATHS ?= 200
CUTS ?= 500
KILLS ?= 500
ZOMBIES ?= 100
KEYS ?= 1000
SCALE ?= 1
ROUNDS ?= 100000
SEED ?= 20261122

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
SUITE := $(if $(COVERAGE),coverage run -m )pytest -m "not soak" --durations 40 --durations-min 5
LOCK := $(VENV)-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	--no-annotate $(if $(UPGRADE),--upgrade)
CODE := service processors tests bench

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup run test soak bench shim crash powercut slow fuzz coverage check format docs licenses sbom audit lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

setup: $(VENV)/.dev ## make the environment for running, testing and checking

run: $(VENV)/.run ## start the service (needs no other target before it)
	@exec $(BIN)/intake serve $(ARGS)

# The suite drives real processes against deadlines, which a busy machine may miss: what failed is tried once more, alone, and only
# what fails then too is a failure. Both runs are printed, so a test that needed its second try can be seen, and mended.
test: $(VENV)/.dev ## run the test suite
	$(if $(COVERAGE),rm -f .coverage .coverage.*)
	$(BIN)/python -m $(SUITE) -n $(WORKERS) --dist worksteal $(ARGS) || { test $$? -eq 1 && echo "Once more, alone, what failed:" && \
		$(BIN)/python -m $(SUITE) -n 0 --last-failed --last-failed-no-failures none --maxfail 3 $(ARGS); }
ifneq ($(COVERAGE),)
	$(BIN)/python -m tests.forked_coverage
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --fail-under $(COVERED)
endif

soak: $(VENV)/.dev ## run the long tests
	$(BIN)/python -m pytest -m soak --timeout 0 $(ARGS)

.PHONY: mutations
mutations: $(VENV)/.dev ## change one thing in a data directory, 1,000 times, and require that fsck finds it
	$(BIN)/python -m pytest -m soak -n 0 --timeout 0 tests/faults/test_integrity.py $(ARGS)

shim: $(VENV)/.dev ## every fault at every storage operation, and a death at every named fault point (about 20 min)
	$(BIN)/python -m pytest -m soak -n 0 --timeout 0 tests/faults/test_shim.py tests/faults/test_points.py $(ARGS)

crash: $(VENV)/.dev ## kill processes at random moments, CYCLES times, and compare with a ledger
	INTAKE_TEST_ROUNDS=$(CYCLES) $(BIN)/python -m pytest -m soak -n 0 --timeout 0 tests/e2e/test_crash_rig.py $(ARGS)

.PHONY: notices
notices: $(VENV)/.dev ## kill processes around the ends of jobs, DEATHS times: every end must be told, under one id
	INTAKE_TEST_ROUNDS=$(DEATHS) $(BIN)/python -m pytest -m soak -s -n 0 --timeout 0 tests/e2e/test_notice_rig.py $(ARGS)

powercut: $(VENV)/.dev ## cut the power of an ext4 CUTS times and of an XFS two fifths of that (as root)
	INTAKE_TEST_CUTS=$(CUTS) $(BIN)/python -m pytest -m soak -n 0 --timeout 0 tests/faults/test_power_cuts.py $(ARGS)

.PHONY: brokers
brokers: $(VENV)/.dev ## send JOBS=500 jobs through each fault of workers, brokers and messages, on RabbitMQ and Redis (about 40 min)
	INTAKE_TEST_JOBS=$(or $(JOBS),500) $(BIN)/python -m pytest -m soak -n 0 --timeout 0 tests/e2e/test_broker_soak.py $(ARGS)

.PHONY: hosts
hosts: $(VENV)/.dev ## send JOBS=2000 jobs to two APIs with four workers that share no folder, and kill each of them again and again
	INTAKE_TEST_JOBS=$(or $(JOBS),2000) $(BIN)/python -m pytest -m soak -n 0 --timeout 0 tests/e2e/test_many_hosts.py $(ARGS)

.PHONY: workers zombies keys clock
clock: $(VENV)/.dev ## put the clock of a service forward and back, by 30 s and by a year, and wait for housekeeping each time
	$(BIN)/python -m pytest -m soak -n 0 --timeout 0 tests/faults/test_clock_jumps.py $(ARGS)

workers: $(VENV)/.dev ## kill supervisors, zygotes and attempts under load, KILLS times, and count what each attempt did
	INTAKE_TEST_KILLS=$(KILLS) $(BIN)/python -m pytest -m soak -n 0 --timeout 0 tests/faults/test_worker_deaths.py $(ARGS)

zombies: $(VENV)/.dev ## stop a supervisor, have its job taken over, and let it go on, ZOMBIES times
	INTAKE_TEST_ZOMBIES=$(ZOMBIES) $(BIN)/python -m pytest -m soak -n 0 --timeout 0 tests/faults/test_zombies.py $(ARGS)

keys: $(VENV)/.dev ## send each of KEYS uploads five times at once with one Idempotency-Key while the API is killed
	INTAKE_TEST_KEYS=$(KEYS) $(BIN)/python -m pytest -m soak -n 0 --timeout 0 tests/faults/test_key_races.py $(ARGS)

slow: $(VENV)/.dev ## attack a service with slow clients, and leave uploads at random points; SCALE=1 is 1,400 and 1,000 of them
	INTAKE_TEST_SCALE=$(SCALE) $(BIN)/python -m pytest -n 0 -s -m slow_clients --timeout 0 tests/integration/test_slow_clients.py $(ARGS)

bench: $(VENV)-bench/.done ## measure beside what else could be used; ARGS names subjects, such as "big small --rounds 5"
	$(VENV)-bench/bin/python -m bench $(ARGS)

fuzz: $(VENV)/.dev ## send ROUNDS mutated requests and 5,000 cases of the API's own description, and explore with Hypothesis
	INTAKE_TEST_EXPLORE=1 INTAKE_TEST_ROUNDS=$(ROUNDS) INTAKE_TEST_SEED=$(SEED) $(BIN)/python -m pytest -n 0 -s --timeout 0 \
		-m "fuzz or (hypothesis and not soak)" $(ARGS)

.PHONY: waiting
waiting: $(VENV)/.dev ## let WAITERS=1000 requests wait and STREAMS=200 streams follow at one process, and print what it costs
	INTAKE_TEST_WAITERS=$(or $(WAITERS),1000) INTAKE_TEST_STREAMS=$(or $(STREAMS),200) \
		$(BIN)/python -m pytest -m soak -n 0 -s --timeout 0 tests/integration/test_many_waiting.py $(ARGS)

coverage: ## run the suite with branch coverage, forked and started processes included; at least 95 %
	@$(MAKE) --no-print-directory test COVERAGE=1

.PHONY: hostile
hostile: $(VENV)/.dev ## run hostile files beside good ones; COUNT=300 files, SEED=1
	@$(BIN)/python -m tests.hostile.run

check: $(VENV)/.dev ## check format, style, types and import contracts
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev ## format the code and repair what can be repaired
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

docs: $(VENV)/.dev ## write docs/reference/settings.md anew
	$(BIN)/intake config docs > $(VENV)/settings.md
	mv $(VENV)/settings.md docs/reference/settings.md

licenses: $(VENV)/.dev ## list the licences of what the default install brings; fails for one that is not permitted
	@$(BIN)/python -m tests.licenses

sbom: $(VENV)/.dev ## write the bill of materials of the default install to dist/sbom.cdx.json (CycloneDX), the same for the same lock
	@mkdir -p dist
	@$(BIN)/cyclonedx-py requirements requirements/run.txt --pyproject pyproject.toml --output-reproducible --of JSON -o dist/sbom.cdx.json

audit: $(VENV)/.dev ## ask for known vulnerabilities of what is locked; fails where nobody can be asked
	$(BIN)/pip-audit --strict --disable-pip --require-hashes -r requirements/scaled.txt

lock: $(VENV)-lock/.done ## resolve requirements/*.txt anew from pyproject.toml
	$(LOCK) pyproject.toml -o requirements/run.txt
	$(LOCK) pyproject.toml --extra celery --extra telemetry --extra postgres --extra s3 --group tests --group checks --group supply -c requirements/run.txt -o requirements/dev.txt
	$(LOCK) pyproject.toml --extra celery --extra postgres --extra s3 -c requirements/dev.txt -o requirements/scaled.txt
	$(LOCK) pyproject.toml --group bench -c requirements/run.txt -o requirements/bench.txt
	$(LOCK) requirements/build.in -c requirements/dev.txt -o requirements/build.txt
	$(LOCK) requirements/lock.in -o requirements/lock.txt

clean: ## remove the environment, caches and reports; uploads/ stays
	rm -rf $(VENV) $(VENV)-lock $(VENV)-bench dist .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment for running is the smaller half of the one for developing, in the same place.

$(VENV)/.run: requirements/run.txt requirements/build.txt pyproject.toml | $(BIN)/pip
	@echo "Installing what running needs into $(VENV) ..."
	@$(PIP) install --require-hashes --no-compile -r requirements/run.txt -r requirements/build.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements/dev.txt requirements/build.txt pyproject.toml | $(BIN)/pip
	@echo "Installing what running, testing and checking need into $(VENV) ..."
	@$(PIP) install --require-hashes -r requirements/dev.txt -r requirements/build.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.run

# The others' libraries want other versions of what the tests need, so they have an environment of their own.

$(VENV)-bench/.done: requirements/bench.txt requirements/build.txt pyproject.toml
	@echo "Installing the service and what it is compared with into $(VENV)-bench ..."
	@$(PYTHON) -m venv $(VENV)-bench
	@$(VENV)-bench/bin/pip --disable-pip-version-check --quiet install --require-hashes -r requirements/bench.txt -r requirements/build.txt
	@$(VENV)-bench/bin/pip --disable-pip-version-check --quiet install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)-lock/.done: requirements/lock.txt
	@$(PYTHON) -m venv $(VENV)-lock
	@$(VENV)-lock/bin/pip --disable-pip-version-check --quiet install --require-hashes -r requirements/lock.txt
	@touch $@

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed and $(PYTHON) is not one: name another, as in 'make $(MAKECMDGOALS) PYTHON=python3.13'" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
