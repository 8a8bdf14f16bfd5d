# Two commands do everything on a new machine: `make demo` and `make test`. Both make .venv first.

PYTHON ?= python3
VENV := .venv
DEMO ?= demo

.PHONY: help setup demo obedience test lint types check pages fuzz memory bench lerobot lock clean
.PHONY: flink-jars test-flink prism test-prism

help:
	@echo "make demo    the main job on a small corpus of its own, end to end (10 minutes at most)"
	@echo "make obedience  trains a model on this CPU and measures whether it does as it is told (30 minutes)"
	@echo "make test    all tests"
	@echo "make check   lint, types and tests, as CI runs them"
	@echo "make fuzz    2,000 damaged corpora through the pipeline (RUNS=n for another number)"
	@echo "make memory  peak memory of preparing each source at scale (about 20 minutes)"
	@echo "make bench   speed and quality beside public libraries, in environments of theirs (50 minutes;"
	@echo "             BENCH=panorama, text, decode, model, loader or audit for one part)"
	@echo "make lerobot a dataset written by the lerobot library, in an environment of its own, read back"
	@echo "make test-flink  the same tables on a Flink cluster, processes of it killed (Java, Maven; 4 minutes)"
	@echo "make test-prism  the same table on Beam's Prism runner, built here (Go; 5 minutes the first time)"
	@echo "make pages   pipelines/sources/README.md, from the sources themselves"
	@echo "make lock    resolve requirements.lock anew from pyproject.toml"

setup: $(VENV)/.complete

# The stamp is written last, so an installation that was cut short is done again.
$(VENV)/.complete: requirements.lock pyproject.toml
	@echo "installing into $(VENV) from requirements.lock (about 2 minutes, 5 GB)"
	$(PYTHON) -c "import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else 'Python %d.%d is not supported; set PYTHON to a 3.11, 3.12 or 3.13' % v)"
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup
	$(VENV)/bin/unisim demo --out $(DEMO)

# Commands from equal starts with equal noise, by text alone and by controls alone.
OBEDIENCE ?= build/obedience
obedience: setup
	$(VENV)/bin/python -m infra.demo.obedience --out $(OBEDIENCE)

test: setup
	$(VENV)/bin/python -m pytest --numprocesses 2 --dist worksteal

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: setup
	$(VENV)/bin/pyright

check: lint types test

# What is made from the code and kept in the tree.
pages: setup
	$(VENV)/bin/unisim sources --markdown > pipelines/sources/README.md

RUNS ?= 2000
SOURCE ?=
fuzz: setup
	$(VENV)/bin/python -m tests.fuzz.harness --runs $(RUNS) $(if $(SOURCE),--source $(SOURCE))

memory: setup
	$(VENV)/bin/python -m tests.memory.measure

# A Flink cluster and Beam's job server: 160 MB into build/flink, each jar checked by its SHA-256.
flink-jars: setup
	$(VENV)/bin/python -m infra.flink.jars

test-flink: flink-jars
	UNISIM_FLINK=1 $(VENV)/bin/python -m pytest tests/infra/test_flink.py tests/infra/test_flink_jars.py

# Built into build/prism from its Go module.
prism: setup
	$(VENV)/bin/python -m infra.prism

test-prism: prism
	UNISIM_PRISM=1 $(VENV)/bin/python -m pytest tests/infra/test_prism.py

# The libraries that we measure against (6 GB: one of them brings PyTorch).
PEERS := $(VENV)-peers
$(PEERS)/.complete: tests/bench/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r tests/bench/peers.txt
	@touch $@

# What the loader is measured against: it brings PyTorch too.
$(PEERS)-loader/.complete: tests/bench/peers_loader.txt
	$(PYTHON) -m venv $(PEERS)-loader
	$(PEERS)-loader/bin/python -m pip install --quiet --disable-pip-version-check -r tests/bench/peers_loader.txt
	@touch $@

# What the audit is measured against, in two environments as their pyarrow differ (3 GB).
$(PEERS)-audit/.complete: tests/bench/peers_doctor.txt tests/bench/peers_tfdv.txt
	$(PYTHON) -m venv $(PEERS)-audit/doctor
	$(PYTHON) -m venv $(PEERS)-audit/tfdv
	$(PEERS)-audit/doctor/bin/python -m pip install --quiet --disable-pip-version-check -r tests/bench/peers_doctor.txt
	$(PEERS)-audit/tfdv/bin/python -m pip install --quiet --disable-pip-version-check -r tests/bench/peers_tfdv.txt
	@touch $@

# What the model is measured against (6 GB: it brings PyTorch too, of its own wishes).
$(PEERS)-model/.complete: tests/bench/peers_model.txt
	$(PYTHON) -m venv $(PEERS)-model
	$(PEERS)-model/bin/python -m pip install --quiet --disable-pip-version-check -r tests/bench/peers_model.txt
	@touch $@

# A Python with the lerobot library, which brings PyTorch (8 GB). 0.4.4 writes v3.0; LEROBOT=0.3.3
# writes v2.1.
LEROBOT ?= 0.4.4
WITH_LEROBOT := $(VENV)-lerobot
$(WITH_LEROBOT)/.complete-$(LEROBOT):
	$(PYTHON) -m venv $(WITH_LEROBOT)
	rm -f $(WITH_LEROBOT)/.complete-*
	$(WITH_LEROBOT)/bin/python -m pip install --quiet --disable-pip-version-check lerobot==$(LEROBOT)
	@touch $@

# Each part installs only what it measures against. `model`, `loader` and `audit` choose their cores,
# so they run by themselves.
BENCH ?= panorama text decode model loader audit
BENCH_NEEDS := $(if $(filter panorama text,$(BENCH)),$(PEERS)/.complete) \
  $(if $(filter decode,$(BENCH)),$(WITH_LEROBOT)/.complete-$(LEROBOT)) \
  $(if $(filter model,$(BENCH)),$(PEERS)-model/.complete) \
  $(if $(filter loader,$(BENCH)),$(PEERS)-loader/.complete) \
  $(if $(filter audit,$(BENCH)),$(PEERS)-audit/.complete)
bench: setup $(BENCH_NEEDS)
	$(if $(filter-out model loader audit,$(BENCH)),$(VENV)/bin/python -m tests.bench.run \
	  --peers $(PEERS)/bin/python --lerobot $(WITH_LEROBOT)/bin/python \
	  --plot docs/embedding_keys.png --scale docs/scale.png $(filter-out model loader audit,$(BENCH)))
	$(if $(filter model,$(BENCH)),$(VENV)/bin/python -m tests.bench.model \
	  --peers $(PEERS)-model/bin/python --cache build/bench)
	$(if $(filter loader,$(BENCH)),$(VENV)/bin/python -m tests.bench.loader \
	  --peers $(PEERS)-loader/bin/python --folder build/bench/loader)
	$(if $(filter audit,$(BENCH)),$(VENV)/bin/python -m tests.bench.audit --folder build/bench/audit \
	  --doctor $(PEERS)-audit/doctor/bin/python --tfdv $(PEERS)-audit/tfdv/bin/python)

# A dataset written by the lerobot library itself, read back.
lerobot: setup $(WITH_LEROBOT)/.complete-$(LEROBOT)
	UNISIM_LEROBOT_PYTHON=$(WITH_LEROBOT)/bin/python $(VENV)/bin/python -m pytest \
	  tests/pipelines/test_lerobot_library.py

# uv resolves for every supported Python at once; index addresses stay out of the file.
lock:
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet uv
	$(VENV)-lock/bin/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --quiet \
	  --custom-compile-command "make lock" -o requirements.lock
	rm -rf $(VENV)-lock

clean:
	rm -rf $(VENV) $(VENV)-lerobot $(PEERS) $(PEERS)-model $(PEERS)-loader $(DEMO) build
