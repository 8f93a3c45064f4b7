# make demo     the whole line on this machine          make test    everything that proves it
# make bench    figures for BENCHMARKS.md               make soak    1,000 parts at 300 a minute
# make study    how well the judge measures and decides  make lint    ruff, mypy, import-linter
# make faults   a million simulated parts and 1,000 faults at real processes (hours; goes on where it was stopped)
#                     `python -m edge_daemon.testing.soak_study` is the long soak: an hour with retention at work
# make wheel    a wheel and an sdist in dist/          make fuzz    parsers against nonsense, for long (FUZZ_EXAMPLES=20000)
# make sbom     what is installed, as CycloneDX         make audit   whether any of it has a known weakness
# Nothing but Python 3.10 or newer and make is needed; PYTHON=python3.12 chooses another interpreter.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
DEMO_ARGS ?=
TEST_ARGS ?=
JOBS ?= 2
FAULT_ARGS ?=

# What the tests can use besides Python packages. Without root the line to type is printed, and those tests skip.
SYSTEM_PACKAGES := mosquitto mosquitto-clients socat prometheus postgresql gir1.2-aravis-0.8 libgirepository1.0-dev \
	libcairo2-dev pkg-config gcc python3-dev iproute2 systemd systemd-container poppler-utils libegl1 libgl1-mesa-dri libxcb-res0 \
	libxcb-ewmh2 libxcb-composite0 libxcb-xinerama0 libxcb-keysyms1 libxcb-icccm4 libxcb-xkb1 \
	chromium libmodbus5 strace

# Once more, and said so: a shared machine may withhold the processor for longer than a part has (see DECISIONS.md).
REPEAT := --reruns 1 --reruns-delay 1 -r fERsx

.PHONY: demo soak test bench study faults wheel lint fuzz sbom audit clean system-packages
.DEFAULT_GOAL := demo

$(VENV)/bin/python:
	@echo "==> making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { echo "python3-venv is missing: apt-get install python3-venv"; exit 1; }
	@$(PIP) --upgrade pip setuptools

$(VENV)/.demo: $(VENV)/bin/python setup.cfg pyproject.toml
	@echo "==> installing edge-daemon with camera emulation (about 250 MB, once)"
	@$(PIP) -e '.[basler,station]' || { echo "==> no pypylon for this machine: the demo uses a watched folder"; $(PIP) -e '.[station]'; }
	@touch $@

$(VENV)/.test: $(VENV)/bin/python setup.cfg pyproject.toml
	@echo "==> installing edge-daemon and what its tests need"
ifeq ($(REQUIRE_ALL),1)
	@echo "==> with what only a full run needs: Aravis bindings, PyTorch, TensorRT-RTX, gVirtualXray"
	@$(PIP) -e '.[dev,basler,aravis,train,rtx-check,simulator-check]'
else
	@$(PIP) -e '.[dev,basler]'
	@$(PIP) -e '.[aravis]' 2>/dev/null || echo "==> no Aravis bindings here: those tests will skip"
endif
	@touch $@

demo: $(VENV)/.demo
	@$(BIN)/edge-daemon demo $(DEMO_ARGS)

soak: $(VENV)/.demo
	@$(BIN)/edge-daemon demo --parts 1000 --rate 300/min

system-packages:
	@missing=""; for package in $(SYSTEM_PACKAGES); do \
	  dpkg -s $$package >/dev/null 2>&1 || missing="$$missing $$package"; done; \
	if [ -z "$$missing" ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "==> installing system packages:$$missing"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	else echo "==> some tests will skip; for all of them: sudo apt-get install$$missing"; fi

lint: $(VENV)/.test
	@echo "==> ruff, mypy, import-linter"
	@$(BIN)/ruff check edge_daemon tests
	@$(BIN)/ruff format --check edge_daemon tests
	@$(BIN)/mypy
	@$(BIN)/lint-imports

test: system-packages $(VENV)/.test lint
	@echo "==> pytest"
ifneq ($(TEST_ARGS),)
	@$(BIN)/python -m pytest $(TEST_ARGS)
else
	@# What needs only a processor runs side by side; what lives by the clock, with real processes, runs alone after it.
	@# Both run to their end, and each prints its closing line. A test repeated is named under "rerun test summary".
	@failed=0; \
	$(BIN)/python -m pytest -n $(JOBS) $(REPEAT) tests/unit tests/docs || failed=1; \
	$(BIN)/python -m pytest $(REPEAT) tests/system tests/benchmarks || failed=1; \
	exit $$failed
endif

bench: $(VENV)/.test
	@$(BIN)/python -m edge_daemon.testing.benchmark
	@$(BIN)/python -m pytest tests/benchmarks --benchmark-enable --benchmark-columns=median,min,rounds

study: $(VENV)/.demo
	@$(BIN)/python -m edge_daemon.testing.judging_study

FUZZ_EXAMPLES ?= 20000
fuzz: $(VENV)/.test
	@FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/python -m pytest -q tests/unit/test_fuzz.py --timeout 86400

# Of what a device has: the package and its run-time extras, in an environment of their own; tools in another.
$(VENV)-device/.done: setup.cfg pyproject.toml
	@$(PYTHON) -m venv $(VENV)-device
	@$(VENV)-device/bin/python -m pip install --quiet --disable-pip-version-check '.[sparkplug,station,tables]'
	@touch $@

$(VENV)-supply/.done:
	@$(PYTHON) -m venv $(VENV)-supply
	@$(VENV)-supply/bin/python -m pip install --quiet --disable-pip-version-check 'cyclonedx-bom>=7' 'pip-audit>=2.9'
	@touch $@

sbom: $(VENV)-device/.done $(VENV)-supply/.done
	@mkdir -p dist
	@$(VENV)-supply/bin/cyclonedx-py environment --output-reproducible --of JSON -o dist/edge-daemon.cdx.json $(VENV)-device
	@echo "==> dist/edge-daemon.cdx.json"

# Asks the vulnerability data of PyPI about each package. A mirror without that data makes it fail: not asked is not safe.
audit: $(VENV)-device/.done $(VENV)-supply/.done
	@$(VENV)-supply/bin/pip-audit --path $$($(VENV)-device/bin/python -c 'import site; print(site.getsitepackages()[0])') --skip-editable --strict

faults: system-packages $(VENV)/.test
	@$(BIN)/python -m edge_daemon.testing.model_check
	@$(BIN)/python -m edge_daemon.testing.faults --parts 1000000 --faults 1000 $(FAULT_ARGS)

wheel: $(VENV)/.test
	@$(BIN)/python -m build --outdir dist

clean:
	rm -rf $(VENV) $(VENV)-device $(VENV)-supply build dist demo-output *.egg-info
