# The commands of the project. "make" alone lists them.
#
# Everything runs in .venv, which is made on first use from any Python >= 3.11:
#   make book PYTHON=python3.12                     another interpreter
#   make book TORCH_INDEX=https://download.pytorch.org/whl/cpu
#                                                   PyTorch without CUDA (0.2 GB instead of 2.8 GB)
#   make book PROFILE=smoke                         smaller, see book/howto_run_one_figure.md

PYTHON ?= python3
PROFILE ?= fashion
METHODS ?= main
SEED ?= 0
TORCH_INDEX ?=
WORKERS ?= 2

VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
PEERS ?=
BENCH ?=
PEERS_VENV := .venv-bench
PEERS_READY := $(PEERS_VENV)/.ready
# Not "yes": .venv is absent, its Python is gone, or the folder was moved since (.ready holds its path).
WORKS := $(shell $(RUN) -c "import os; was = os.path.exists('$(READY)') and open('$(READY)').read(); \
  print('yes' if not was or was.strip() == os.getcwd() else 'moved')" 2>/dev/null)
# The pages that "make book" computes: those that show the reader's own networks, over the stored ones
# where there are some; all others are those of the repository. "make book LIVE=--all" computes all.
SHOWN := quickstart fig01 fig02 fig08 tab01 explorer
LIVE ?= $(if $(wildcard data/results/$(PROFILE)/measures.csv),$(SHOWN),--all)
# Several words as a list for the notebooks: METHODS="at trades6", SEED="0 1".
none :=
comma := ,
commas = $(subst $(none) $(none),$(comma),$(strip $(1)))
listed = $(if $(word 2,$(1)),[$(call commas,$(1))],$(strip $(1)))
NOTEBOOKS = $(shell find nbs -name '*.ipynb' -not -path '*/.*' | sort)

# glibc hands large buffers back to the system after every operation and faults them in again
# for the next one; keeping them makes a training step on a CPU about 1.2 times faster. 32 MiB is
# the most that every glibc accepts. Other C libraries ignore the two variables.
export MALLOC_MMAP_THRESHOLD_ ?= 33554432
export MALLOC_TRIM_THRESHOLD_ ?= 134217728

.DEFAULT_GOAL := help
.PHONY: help env book test test-other lab notebooks results campaign merge bench html look clean
ifneq ($(WORKS),yes)
.PHONY: $(READY)
endif

help:
	@echo "make book       train and measure ten networks here (METHODS=table1: 19), then build the book with them"
	@echo "make test       unit tests, then every notebook against its stored output"
	@echo "make test-other the numerical tests with other processor instructions (AVX2, or none)"
	@echo "make lab        open JupyterLab"
	@echo "make html       build the book from the committed notebooks, nothing is computed"
	@echo "make look       open every built page in a browser, and say what is wrong (Chromium, playwright)"
	@echo "make notebooks  execute the committed notebooks again, in place"
	@echo "make results    measure everything stored in data/results/$(PROFILE) again (hours)"
	@echo "make campaign   train and measure the queue of QUEUE=$(QUEUE), beside other work (hours)"
	@echo "make merge      move its finished rows into the tables, execute the notebooks again"
	@echo "make bench      time flatlib against a straightforward implementation (half an hour and more)"
	@echo "make env        only make or update the virtual environment .venv"
	@echo "make clean      remove _build and caches (keeps .venv and the trained models in runs/)"
	@echo
	@echo "Variables: PROFILE=$(PROFILE)  METHODS=$(METHODS)  PYTHON=$(PYTHON)  TORCH_INDEX=$(TORCH_INDEX)"

book: $(READY)
	@echo "== 1/4  Models and measurements: $(METHODS), profile $(PROFILE) (finished ones are kept)"
	$(RUN) -m flatlib.runs --methods $(METHODS) --profile $(PROFILE) --seeds $(SEED)
	@echo "== 2/4  Notebooks"
	@rm -rf _build/live
	$(RUN) nbs/run.py $(LIVE) --shared --out _build/live/nbs -p profile $(PROFILE) -p source live \
	  -p methods "$(call listed,$(METHODS))" -p seeds "[$(call commas,$(SEED))]"
	@echo "== 3/4  Pages"
	$(RUN) nbs/stage.py _build/live
	$(VENV)/bin/jupyter-book build _build/live --path-output . --all
	@test -f _build/html/index.html
	@echo "== 4/4  A look through the pages"
	$(RUN) nbs/proofread.py _build/live/nbs
	@echo "The book is at $(CURDIR)/_build/html/index.html"

test: $(READY)
	$(RUN) -m ruff check .
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(WORKERS)
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(WORKERS) --nbval --nbval-current-env \
	  --nbval-sanitize-with tests/nbval.cfg nbs

# What rounding moves, once more with other instructions than this processor would take.
test-other: $(READY)
	case "$$($(RUN) -c 'import torch; print(torch.backends.cpu.get_cpu_capability())')" in \
	  AVX512) export ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2;; \
	  *) export ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41;; esac; \
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(WORKERS) -m numerical

lab: $(READY)
	$(RUN) -m jupyterlab

html: $(READY)
	$(VENV)/bin/jupyter-book build . --all
	@test -f _build/html/index.html
	@echo "The book is at $(CURDIR)/_build/html/index.html"

look:
	$(RUN) tests/look.py _build/html

# The .py text is the source; its notebook is brought up to date, executed aside, then replaced.
notebooks: $(READY)
	@mkdir -p _build/executed
	@set -e; for notebook in $(NOTEBOOKS); do \
	  echo "== $$notebook"; \
	  text="$${notebook%.ipynb}.py"; \
	  if [ -e "$$text" ]; then $(RUN) -m jupytext --quiet --update --to ipynb "$$text"; fi; \
	  $(RUN) -m nbconvert --log-level WARN --to notebook --execute \
	    --ExecutePreprocessor.record_timing=False --ExecutePreprocessor.timeout=-1 \
	    --output-dir _build/executed "$$notebook"; \
	  mv "_build/executed/$$(basename "$$notebook")" "$$notebook"; \
	done

# Goes on where it was stopped; every line can be called by itself.
COSTLY := at awp0.01 ssl4 unlabeled
RESULTS = $(RUN) -m flatlib.runs --profile $(PROFILE) --commit
results: $(READY)
	$(RESULTS) --methods all --seeds 0 1 2
	$(RESULTS) --methods at --suite scaled training_radii choices
	$(RESULTS) --methods $(COSTLY) --suite training training_worst
	$(RESULTS) --methods trades6 mart6 wd0.05 noise0.3 smooth0.3 autoaugment cyclic4 batch8 --suite training
	$(RESULTS) --methods table1 batch8 adam pgd14 --suite hessian lines
	$(RESULTS) --methods all --suite radii

# Beside other work, from a clean checkout of one commit in .campaign, at the lowest priority; stop it
# at any moment. Finished rows wait in data/results/$(QUEUE)/pending until "make merge".
QUEUE ?= cifar10-cpu
WAITING = $(CURDIR)/data/results/$(QUEUE)/pending
campaign: $(READY)
	@test -d .campaign || git worktree add --quiet --detach .campaign HEAD
	@git -C .campaign checkout --quiet --detach "$$(git rev-parse HEAD)"
	@echo "== The queue of $(QUEUE), from commit $$(git -C .campaign describe --always)"
	@cd .campaign; trap 'kill 0' INT TERM; for worker in $$(seq $(WORKERS)); do \
	  FLATLIB_RUNS="$${FLATLIB_RUNS:-$(CURDIR)/runs}" OMP_NUM_THREADS=1 \
	  FLATLIB_DATASETS="$${FLATLIB_DATASETS:-$(CURDIR)/datasets}" \
	  $(CURDIR)/$(RUN) -m flatlib.runs.queue --profile $(QUEUE) --pending $(WAITING) & done; wait

merge: $(READY)
	$(RUN) -m flatlib.runs.queue --profile $(QUEUE) --merge
	$(MAKE) notebooks

# PEERS=1 times other packages too; BENCH="--quick" or BENCH="--only pgd worst" passes options on.
bench: $(READY) $(if $(PEERS),$(PEERS_READY))
	$(if $(PEERS),$(PEERS_VENV)/bin/python,$(RUN)) -m benchmarks $(BENCH)

env: $(READY)

# A second environment for the packages compared with; it finds the others in .venv.
$(PEERS_READY): $(READY) requirements-bench.txt
	@rm -rf $(PEERS_VENV)
	@echo "== Making $(PEERS_VENV) for the packages of requirements-bench.txt"
	@$(RUN) -m venv $(PEERS_VENV)
	@$(RUN) -c "import pathlib, sysconfig; \
	  (folder,) = pathlib.Path('$(PEERS_VENV)/lib').glob('python*/site-packages'); \
	  base = sysconfig.get_path('purelib'); \
	  (folder / 'base.pth').write_text(f'import site; site.addsitedir({base!r})\n')"
	@$(PEERS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	  -r requirements-bench.txt
	@touch $@

# Steps, in an order that survives a kill at any point:
#   .unfinished lies in a new .venv until all packages are in; whoever finds it starts afresh.
#   .ready is written last, so it is newer than the three files it depends on.
# A .venv with neither was made by hand or is being updated: it is kept, and the packages are
# installed into it.
$(READY): requirements.txt constraints.txt pyproject.toml
	@if [ -e $(VENV)/.unfinished ] || { [ -e $(VENV) ] && [ "$(WORKS)" != yes ]; }; then \
	  echo "== Removing an unfinished or broken $(VENV)"; \
	  rm -rf _build/removed; mkdir -p _build; mv $(VENV) _build/removed; rm -rf _build/removed; fi
	@if [ ! -e $(VENV) ]; then \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "Python 3.11 or newer is needed; $(PYTHON) says: $$($(PYTHON) --version 2>&1)" >&2; \
	    echo "Name another one, for example: make env PYTHON=python3.12" >&2; exit 1; }; \
	  echo "== Making the virtual environment $(VENV) with $$($(PYTHON) --version)"; \
	  mkdir $(VENV); touch $(VENV)/.unfinished; $(PYTHON) -m venv $(VENV); fi
	@rm -f $@
	@echo "== Installing the pinned packages (once; PyTorch makes it a few minutes)"
	@$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt \
	  $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(RUN) -c "import matplotlib.pyplot"  # builds the font cache, whose message no notebook should show
	@$(RUN) -c "import os; print(os.getcwd())" > $(VENV)/.path
	@rm -f $(VENV)/.unfinished
	@mv $(VENV)/.path $@
	@echo "== $(VENV) is ready"

clean:
	rm -rf _build .pytest_cache .ruff_cache .jupyter_cache
	find flatlib flatbook nbs tests -name __pycache__ -prune -exec rm -rf {} +
	find nbs -name .ipynb_checkpoints -prune -exec rm -rf {} +
