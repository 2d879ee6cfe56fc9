# make release    download the corpora, build the suite, write release/
# make test       everything that must hold
# make reproduce  clone, rebuild without any cache, compare with what is committed
#
# Each sets up .venv by itself. TORCH_INDEX: an index that serves the CPU build of torch, where the
# configured one does not (see docs/reproduce.md).

PYTHON ?= python3
TORCH_INDEX ?=
PIP := .venv/bin/pip --disable-pip-version-check --quiet
RUN := PATH="$(CURDIR)/.venv/bin:$$PATH"

.PHONY: release test test-long reproduce setup check clean

# DVC, killed while it writes its list of who reads what, leaves half a file that it cannot read again; killed while
# it writes the lock, half a lock. Then the committed one comes back, and what was built since from DVC's cache of runs.
release: .venv/built
	@exec 9>.venv/lock; flock --nonblock 9 || { echo "error: another make release is under way in this folder; wait for it" >&2; exit 2; }; \
	.venv/bin/python -m json.tool .dvc/tmp/rwlock /dev/null 2> /dev/null || rm -f .dvc/tmp/rwlock; \
	if $(RUN) dvc stage list 2>&1 | grep -Eq "dvc\.lock' (is invalid|validation failed)"; then \
	  echo "dvc.lock was cut off; the committed one comes back" >&2; git checkout --quiet -- dvc.lock || rm -f dvc.lock; fi; \
	$(RUN) dvc repro && $(RUN) everystep show release
	@printf '%s\n' 'Next:' \
	  '  everystep verify release                                            # every digest, every file' \
	  '  everystep pull release --model mobilellm --step 64 --out DIR        # one checkpoint for transformers' \
	  '  everystep trace release --model mobilellm --step 64                 # the documents in that batch' \
	  '  everystep replay release --model mobilellm --from 64 --to 128       # train it again, compare' \
	  '(after: source .venv/bin/activate)'

test: .venv/tested check
	$(RUN) python -m pytest -n auto --dist worksteal

test-long: .venv/tested
	$(RUN) python -m tests.proofs

check: .venv/tested
	$(RUN) ruff check . && $(RUN) ruff format --check . && $(RUN) mypy

reproduce: .venv/built
	$(RUN) python -m pipeline.reproduce

setup: .venv/built

# Around what fills .venv. Two makes may start at once: one does it, the other waits and finds it done.
LOCK = exec 9>.venv/setup-lock; flock --nonblock 9 || { echo "waiting: another make is filling .venv"; flock 9; }
ONCE = $(LOCK); [ -f $@ ] && [ -z "$$(find $^ -newer $@)" ] && exit 0

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "error: Everystep needs Python 3.11 or newer; run make PYTHON=/path/to/python3.11")'
	@mkdir -p .venv; $(LOCK); [ -x $@ ] || $(PYTHON) -m venv .venv

.venv/built: .venv/bin/pip pyproject.toml constraints.txt
	@$(ONCE); \
	echo "installing what builds (about two minutes)"; \
	$(PIP) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) --constraint constraints.txt torch==2.13.0 && \
	$(PIP) install --constraint constraints.txt --editable '.[build,train]' && touch $@

OLDEST := transformers tokenizers

.venv/tested: .venv/built constraints-dev.txt $(OLDEST:%=tests/oldest/%.txt)
	@$(ONCE); \
	echo "installing what tests"; \
	$(PIP) install --constraint constraints.txt --constraint constraints-dev.txt --editable '.[build,train,cloud,tensorboard,test]' && \
	for name in $(OLDEST); do \
	  rm -rf .venv/oldest/$$name && \
	  $(PIP) install --no-deps --target .venv/oldest/$$name --requirement tests/oldest/$$name.txt || exit; \
	done && touch $@

clean:
	rm -rf .work release runs results data
