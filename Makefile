# make read    render our recorded runs, without installing what runs chapters
# make release the same with its notebooks, records and PDF, as one folder and one zip
# make book    run every chapter and render the book     make test    all checks
# make serve   look at the book on this machine          make clean   remove everything generated but .venv
# make oracles compare the learning paradigms with kornia, lightly, timm and diffusers
# make pages   look at every rendered page in Chromium, with axe-core
# make teach   make the course kit in the folder COURSE, its plans leading to the pages of BOOK, see book/teach.md
# make sweep   run CHAPTER at all combinations of SWEEP and pool the seeds, see book/sweep.md
# make stage   list the stages of EDITION, or run STAGE    make environment  only install what runs chapters
#
# make book PROFILE=smoke CHAPTER=02 SET="eps=4/255 steps=20"
# make book EDITION=best    render recorded runs; nothing is run

PROFILE ?= quick
PYTHON ?= python3
# What a user sets reaches the shell as it is, in the environment; make itself expands none of it.
variables := PROFILE CHAPTER SET SWEEP EDITION STAGE COURSE BOOK PORT PYTHON NBUTILS_BUILD
$(foreach name,$(variables),$(eval override $(name) := $$(value $(name))))
export $(variables)
# Threads that wait should sleep: on a machine with other work, spinning ones made a chapter six times slower.
export OMP_WAIT_POLICY ?= PASSIVE

env := .venv/complete
python := .venv/bin/python

.PHONY: environment read release book stage sweep teach test oracles pages serve clean

environment: $(env)

read release: .venv-read/complete
	@exec .venv-read/bin/python -m book.press $@

book sweep: $(env)
	@exec $(python) -m book.press $@

# What rendered the pages can show them.
serve: $(firstword $(wildcard $(env) .venv-read/complete) $(env))
	@exec $(dir $<)bin/python -m book.press $@

stage: $(env)
	@exec $(python) -m book.press stage -- "$$EDITION" $${STAGE:+"$$STAGE"}

teach: $(env)
	@exec $(python) -m book.press teach --book="$$BOOK" -- "$$COURSE"

oracles pages: $(env)
	@exec $(python) -m tests.$@

test: $(env)
	@status=0; \
	$(python) -m ruff check . || status=1; \
	$(python) -m mypy || status=1; \
	OMP_NUM_THREADS=1 $(python) -m pytest -n auto --maxprocesses 4 --dist worksteal || status=1; \
	exit $$status

clean:
	@exec "$$PYTHON" -m book.press.environment clean

$(env): pyproject.toml constraints.txt
	@exec "$$PYTHON" -m book.press.environment make

.venv-read/complete: pyproject.toml constraints.txt
	@exec "$$PYTHON" -m book.press.environment read
