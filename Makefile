# make release    fetch the corpora, build the suite, write release/
# make reproduce  clone, rebuild without any cache, compare with what is committed
#
# Each sets up .venv by itself. TORCH_INDEX: an index that serves the torch that you want, where the
# configured one does not.

PYTHON ?= python3
TORCH_INDEX ?=
INSTALL := .venv/bin/python -m pipeline.install
RUN := PATH="$(CURDIR)/.venv/bin:$$PATH"

.PHONY: release reproduce setup clean

release: .venv/built
	@$(RUN) python -m pipeline.build

reproduce: .venv/built
	$(RUN) python -m pipeline.reproduce

setup: .venv/built

# Around what fills .venv. Two makes may start at once: one does it, the other waits and finds it done.
# 75 is the code for "held by another"; a file system without locks is told by flock itself and costs nothing more.
LOCK = exec 9>.venv/setup-lock; flock --nonblock --conflict-exit-code 75 9; \
	if [ $$? = 75 ]; then echo "waiting: another make is filling .venv"; flock 9; fi
ONCE = $(LOCK); [ -f $@ ] && [ -z "$$(find $^ -newer $@)" ] && exit 0

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "error: Everystep needs Python 3.11 or newer; run make PYTHON=/path/to/python3.11")'
	@mkdir -p .venv; $(LOCK); [ -x $@ ] || $(PYTHON) -m venv .venv

.venv/built: .venv/bin/pip pyproject.toml constraints.txt
	@$(ONCE); \
	echo "installing what builds into .venv (about three minutes)"; \
	$(INSTALL) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) --constraint constraints.txt torch==2.13.0 && \
	$(INSTALL) --constraint constraints.txt --editable '.[build,train]' && touch $@

clean:
	rm -rf .work release runs results data
