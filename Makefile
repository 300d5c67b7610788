# make book    run every chapter and render the book     make test    all checks
# make serve   look at the book on this machine          make clean   remove everything generated but .venv
# make oracles compare the learning paradigms with kornia, lightly, timm and diffusers
# make stage   list the stages of EDITION, or run STAGE
#
# make book PROFILE=smoke CHAPTER=02 SET="eps=4/255 steps=20"
# make book EDITION=best    render recorded runs; nothing is run

PROFILE ?= quick
CHAPTER ?=
SET ?=
EDITION ?=
STAGE ?=
PYTHON ?= python3
PORT ?= 8000
export PROFILE CHAPTER SET EDITION
# Threads that wait should sleep: on a machine with other work, spinning ones made a chapter six times slower.
export OMP_WAIT_POLICY ?= PASSIVE

env := .venv/complete
python := .venv/bin/python
build := $(or $(NBUTILS_BUILD),build)
# --nolock: a run killed at any moment leaves no lock behind; each chapter has its own (nbutils.lab.execute).
snakemake := $(python) -m snakemake --quiet all --cores all --nolock --rerun-incomplete --keep-going

# An edition has a build folder of its own, so that a run at a profile never takes its notebooks for its own.
ifneq ($(EDITION),)
shown := $(build)/editions/$(EDITION)
else
shown := $(build)
endif

.PHONY: book stage test oracles serve clean

ifneq ($(EDITION),)
book: export PROFILE := $(EDITION)
book: $(env)
	@test -z "$$CHAPTER$$SET" || { echo "EDITION shows whole recorded runs: leave out CHAPTER and SET."; exit 2; }
	@$(python) -m nbutils.lab.editions "$(EDITION)" --show && export NBUTILS_BUILD="$(shown)" && \
	  $(snakemake) book && $(python) -m nbutils.lab.chapters
else
book: $(env)
	@$(snakemake) all; status=$$?; \
	if [ $$status = 1 ] && ls "$(build)/executed/$(PROFILE)/"*.partial.ipynb >/dev/null 2>&1; then \
	  INCOMPLETE=1 $(snakemake) book; \
	fi; \
	if [ $$status != 2 ]; then $(python) -m nbutils.lab.chapters; fi; \
	exit $$status
endif

stage: $(env)
	@$(python) -m nbutils.lab.stages "$(EDITION)" $(STAGE)

test: $(env)
	@status=0; \
	$(python) -m ruff check . || status=1; \
	$(python) -m mypy || status=1; \
	$(python) -m pytest || status=1; \
	exit $$status

# The peers lie in a folder of their own, which only this run sees: the book pins an old kornia.
peers := $(build)/oracles
oracles: $(env)
	@test "$(peers)/complete" -nt tests/oracles/requirements.txt || { \
	  rm -rf "$(peers)" && \
	  $(python) -m pip install --quiet --disable-pip-version-check --no-deps --target "$(peers)" \
	    -r tests/oracles/requirements.txt && touch "$(peers)/complete"; }
	@PYTHONPATH="$(peers)" $(python) -m pytest -W default tests/oracles

serve: $(env)
	@test -f "$(shown)/_build/html/index.html" || { echo "There is no book yet: run 'make book' first."; exit 1; }
	@$(python) -m http.server $(PORT) --bind 127.0.0.1 --directory "$(shown)/_build/html"

clean:
	rm -rf "$(build)/store" "$(build)/executed" "$(build)/results" "$(build)/_build" "$(build)/oracles" "$(build)/editions"
	rmdir "$(build)" 2>/dev/null || true
	rm -rf .snakemake .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The last line marks the environment as complete; a half-made one is made again from nothing.
$(env): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; \
	  sys.exit(None if (3, 11) <= v < (3, 14) else "Python %d.%d is here, 3.11 to 3.13 is needed: make PYTHON=python3.12" % v[:2])'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python's venv is missing; on Debian: apt install python3-venv"; exit 1; }
	@test -f $@ || rm -rf .venv
	@rm -f $@
	@echo "Making the environment .venv; this takes a few minutes once."
	@test -d .venv || $(PYTHON) -m venv .venv
	@$(python) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@
