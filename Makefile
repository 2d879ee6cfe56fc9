# make release    download the corpora, build the suite, write release/
# make test       everything that must hold
# make test-gpu   what needs a GPU, on one (docs/gpu.md)
# make whatif     the exact runs without groups of documents, again, and what predicts them (docs/whatif.md)
# make reproduce  clone, rebuild without any cache, compare with what is committed
#
# Each sets up .venv by itself. TORCH_INDEX: an index that serves the CPU build of torch, where the
# configured one does not (see docs/reproduce.md).

PYTHON ?= python3
TORCH_INDEX ?=
INSTALL := .venv/bin/python -m pipeline.build.install
RUN := PATH="$(CURDIR)/.venv/bin:$$PATH"

.PHONY: release test test-long test-gpu whatif reproduce setup check lock clean

release: .venv/built
	@$(RUN) python -m pipeline.build.release

test: .venv/tested check
	$(RUN) python -m pytest -n auto --dist worksteal

test-long: .venv/tested
	$(RUN) python -m tests.proofs
	$(RUN) python -m pytest -n auto --dist worksteal --cov

test-gpu: .venv/tested
	$(RUN) python -m tests.gpu

check: .venv/tested
	$(RUN) ruff check . && $(RUN) ruff format --check . && $(RUN) mypy

whatif: .venv/built
	$(RUN) python -m trainer.attribution release mobilellm 240 64 counterfactuals

reproduce: .venv/built
	$(RUN) python -m pipeline.build.reproduce

setup: .venv/built

# Around what fills .venv. Two makes may start at once: one does it, the other waits and finds it done.
# 75 is the code for "held by another"; a file system without locks is told by flock itself and costs nothing more.
LOCK = exec 9>.venv/setup-lock; flock --nonblock --conflict-exit-code 75 9; \
	if [ $$? = 75 ]; then echo "waiting: another make is filling .venv"; flock 9; fi
ONCE = $(LOCK); [ -f $@ ] && [ -z "$$(find $^ -newer $@)" ] && exit 0

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "error: Everystep needs Python 3.11 or newer; run make PYTHON=/path/to/python3.11")'
	@mkdir -p .venv; $(LOCK); [ -x $@ ] || $(PYTHON) -m venv .venv

.venv/built: .venv/bin/pip pyproject.toml constraints.txt requirements.lock
	@$(ONCE); \
	echo "installing what builds into .venv (about three minutes)"; \
	$(INSTALL) --no-deps --require-hashes --requirement requirements.lock && \
	$(INSTALL) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) --constraint constraints.txt torch==2.13.0 && \
	$(INSTALL) --no-deps --no-build-isolation --editable . && touch $@

# Libraries of others, each in a folder of its own: the oldest that something is promised to, and clients of formats.
APART := oldest/transformers oldest/tokenizers clients/model-signing clients/mlcroissant clients/corpuscard clients/infini-gram clients/browser clients/lm-eval

.venv/tested: .venv/built requirements-dev.lock $(APART:%=tests/%.txt)
	@$(ONCE); \
	echo "installing what tests into .venv"; \
	(for name in $(APART); do \
	  rm -rf .venv/$$name && \
	  $(INSTALL) --no-compile --no-deps --require-hashes --target .venv/$$name --requirement tests/$$name.txt || exit; \
	done) & \
	$(INSTALL) --no-deps --require-hashes --requirement requirements-dev.lock; code=$$?; \
	wait $$! && [ $$code = 0 ] && touch $@

# Hashes of what constraints.txt and constraints-dev.txt pin, from the index; needs uv on PATH.
lock:
	UV_CUSTOM_COMPILE_COMMAND="make lock" uv pip compile --quiet pyproject.toml --extra build --extra train \
	  --constraint constraints.txt --output-file requirements.lock
	UV_CUSTOM_COMPILE_COMMAND="make lock" uv pip compile --quiet pyproject.toml --all-extras \
	  --constraint constraints.txt --constraint constraints-dev.txt --output-file requirements-dev.lock

clean:
	rm -rf .work release runs results scores data
