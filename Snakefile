"""The one graph: notebook -> executed notebook -> book. `make book` calls it.

It takes its settings from the environment: PROFILE, CHAPTER and SET as in the Makefile. INCOMPLETE=1 renders what there
is after a chapter failed, with a notice in place of each missing chapter. EDITION renders the chapters of an edition,
which book.press.editions has laid out, and runs none. SWEEP is read for the target `sweep` alone, see book.press.sweep.
"""

import os
import sys

from book.press import chapters, sweep
from nbutils.machine import ROOT, build_dir

edition = os.environ.get("EDITION", "")
profile = edition or os.environ.get("PROFILE", "") or "quick"
selected = {} if edition else chapters.select(profile, os.environ.get("CHAPTER", ""), os.environ.get("SET", ""))

build = build_dir()
executed = build / "executed" / profile
for chapter in chapters.every(profile):
    if chapter.twin.exists() and chapter.state().status == "not run":
        chapter.twin.unlink()  # unreadable, after a full disk or a kill
index = build / "_build" / "html" / "index.html"
twins = [] if os.environ.get("INCOMPLETE") else [chapter.twin for chapter in selected]
# A notice may stand in for a chapter only where this run does not make all of them; then warnings cannot be errors,
# since other pages point into the missing ones.
others = [chapter for chapter in chapters.every(profile) if chapter.twin not in twins]
missing = [chapter for chapter in others if not (edition and chapter.twin.exists())]
incomplete = "1" if missing else ""
strict = "" if missing else "--strict"


def files(folder, *endings):
    """Files that we keep there; what an editor drops has a dot before its name."""
    paths = (p.relative_to(ROOT) for p in (ROOT / folder).rglob("*") if p.suffix in endings)
    return sorted(p for p in paths if not any(part.startswith(".") for part in p.parts))


def last_change(path):
    return path.stat().st_mtime_ns if path.exists() else None


# Every executed notebook stands beside the index: after a failure the index alone would look up to date.
rule all:
    input: index, [chapter.twin for chapter in selected]
    localrule: True


def source(chapter):
    """A chapter's notebook. Where only its text has changed there is nothing to run: the page takes the new text."""
    path = chapter.source.relative_to(ROOT)
    return ancient(path) if chapter.state().status == "ok" else path


# Two chapters at a time, each on half of the cores: the networks are too small for one chapter to fill them all. Those
# that train what others take from the store go first, then the longest; at the end both halves have work.
cores = workflow.resource_settings.cores or 1  # of a cluster nobody says how many
together = min(2, len(selected), cores) or 1
first = ["02", "09", "08", "10", "12", "04"]

for chapter, settings in selected.items():
    rule:
        name: f"chapter_{chapter.name}"
        input:
            source(chapter),
            f"book/profiles/{profile}.yml",
            files("nbutils", ".py"),
            files("book", ".csv"),
            "book/claims.yml",
        output: chapter.twin
        params:
            words = [word for pair in settings.items() for word in ("-p", *pair)],
            images = chapters.images(settings),
        threads: cores // together
        priority: len(first) - first.index(chapter.name[:2]) if chapter.name[:2] in first else 0
        shell: "exec {sys.executable:q} -m book.press execute {input[0]:q} {output:q} {params.words:q}"


swept = sweep.asked()
pools = sweep.pools(swept)


rule sweep:
    input: [job.output for job in swept], list(pools)
    localrule: True


# update: on a cluster a driver that was killed leaves jobs behind, and the next one queues them again. By the time such a
# second job starts, the first may have finished; without the flag Snakemake removes what it has made.
for number, job in enumerate(swept):
    rule:
        name: f"sweep_{number}"
        input: ancient(job.chapter.source.relative_to(ROOT))
        output: update(job.output)
        params: words = [word for pair in job.settings.items() for word in ("-p", *pair)]
        shell: "exec {sys.executable:q} -m book.press execute --once {input[0]:q} {output:q} {params.words:q}"

for number, (record, group) in enumerate(pools.items()):
    rule:
        name: f"pool_{number}"
        input: [job.output for job in group]
        output: record
        localrule: True
        shell: "exec {sys.executable:q} -m book.press pool {input:q} -o {output:q}"


rule book:
    input:
        "_config.yml", "_toc.yml", "tests/benchmarks/recorded.csv", twins, [c.source.relative_to(ROOT) for c in chapters.every(profile)],
        files("book", ".md", ".html", ".bib", ".py", ".js", ".css", ".svg", ".png"), files("nbutils", ".py"),
        "book/claims.yml", files("book/editions", ".json", ".ipynb", ".yml"),
    output: index
    params:
        profile = profile,
        others = lambda wildcards: [(c.name, *map(last_change, (c.source, c.twin, c.partial))) for c in others],
    shell:
        "rm -rf {build:q}/_build && "
        "BOOK_PROFILE={profile:q} BOOK_EDITION={edition:q} BOOK_INCOMPLETE={incomplete} "
        "exec {sys.executable:q} -m book.press render {strict}"
