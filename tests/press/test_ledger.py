"""The ledger holds every claim once, computes its verdict and tells when its criterion was written."""

import json
import math
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import nbformat
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from book.press import ledger
from book.press.files import write
from book.press.pages.ledger import table
from book.press.pages.templates import html
from nbutils.lab import claims, results
from nbutils.lab.claims import Criterion
from nbutils.lab.results import Result
from tests import helpers

CLAIM = claims.find("tile-is-useful")
OWN = claims.find("vgg16-robust-channels-svhn")  # published: 97.91 %


def record(build: Path, *values: float, claim: claims.Claim = CLAIM, name: str = "", profile: str = "quick",
           day: int = 1, schema: int = results.SCHEMA, **parameters: object) -> None:
    found = Result.of(claim.statistic, "usefulness", values, unit="number", n=1000, threat=claim.threat,
                      data="SVHN" if parameters else "planted", profile=profile)
    write_results(build, claim.chapter, [found], name, profile, day, schema, **parameters)


def write_results(build: Path, chapter: str, found: list[Result], name: str = "", profile: str = "quick", day: int = 1,
                  schema: int = results.SCHEMA, **parameters: object) -> None:
    path = build / "executed" / profile / name / f"{chapter}.ipynb"
    ran = helpers.record(found, chapter=chapter, finished=f"2030-01-{day:02}T00:00:00+00:00",
                         parameters={"profile": profile, "dataset": "planted", **parameters})
    content = {**json.loads(results.dumps(ran)), "schema": schema}
    card = nbformat.v4.new_output("display_data", {results.MIME: json.dumps(content)})
    cell = nbformat.v4.new_code_cell("run.card()", outputs=[card])
    write({path: nbformat.writes(nbformat.v4.new_notebook(cells=[cell]))})


def entries() -> list[ledger.Entry]:
    return ledger.entries("quick", ledger.executed())


def page(found: list[ledger.Entry]) -> str:
    """The ledger's page, beside the chapters that have run."""
    return table(found, ledger.executed().get("quick", {}), "../{}.html".format)


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NBUTILS_BUILD", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(("values", "state"), [((0.94, 0.95, 0.94), "held"), ((0.1, 0.1, 0.11), "not held"),
                                               ((0.5, 0.8, 0.99), "undecided"), ((0.94, 0.95), "not comparable")])
def test_a_verdict_is_computed_from_the_record(build: Path, values: tuple[float, ...], state: str) -> None:
    record(build, *values)
    first, *others = entries()
    assert (first.claim, first.state, first.run.commit) == (CLAIM, state, "abc")
    assert {entry.state for entry in others} == {"not run", "not tested"}
    assert [entry.claim.id for entry in (first, *others)] == list(claims.load())


def test_claims_that_nobody_has_run_stand_in_the_ledger(build: Path) -> None:
    found = entries()
    assert all(entry.state == ("not tested" if entry.claim.setting else "not run") for entry in found)
    assert all(entry.in_time is None and entry.row["verdict"] == entry.state for entry in found)
    assert page(found).count(">not yet<") == len(claims.load())
    assert "table_networks=vgg16 train_size=73257 table_epochs=60 train_steps=10." in page(found)
    said = re.sub("(?s)<pre>.*?</pre>", "", page(found))
    assert not re.findall(r".{9}(?:\{&#39;|\{\}|\*\w|,;|: None\b|\.\.(?=[ <]))", said)  # words, no values of a program
    assert "#claim-" not in page(found)  # no chapter shows a verdict: no link that leads nowhere
    assert "records/" not in page(found)
    assert {entry.claim.paper for entry in found if entry.state == "not tested"} >= {"ilyas2019", "kim2021"}


def own_entry() -> ledger.Entry:
    return next(entry for entry in entries() if entry.claim == OWN)


def test_only_a_run_in_the_papers_setting_judges_a_claim_about_it(build: Path) -> None:
    record(build, 0.98, 0.98, 0.98, claim=OWN)  # the chapter as the book shows it
    assert own_entry().state == "not tested"
    record(build, 0.98, 0.98, 0.98, claim=OWN, name="steps=1", **{**OWN.setting, "train_size": 3000})
    assert own_entry().state == "not tested"
    record(build, 0.92, 0.921, 0.92, claim=OWN, name="steps=2", **OWN.setting)
    assert own_entry().words == "partly reproduced"
    record(build, 0.979, 0.98, 0.981, claim=OWN, name="steps=3", profile="smoke", day=3, **OWN.setting)
    assert own_entry().words == "reproduced"  # the last run counts, from any profile
    record(build, 0.4, 0.41, 0.42, claim=OWN, name="steps=4", day=2, **OWN.setting)
    assert own_entry().words == "reproduced"
    record(build, 0.4, 0.41, claim=OWN, name="steps=5", day=9, **OWN.setting)
    assert own_entry().words == "reproduced"  # two seeds say nothing against three
    assert own_entry().row["published_value"] == 0.9791
    assert own_entry().row["setting"] == OWN.setting


def test_what_needs_a_known_truth_is_judged_on_planted_images(build: Path) -> None:
    """Where the run that the page shows is of other images; a chapter without a run has no verdict from there."""
    known = Result.of(CLAIM.statistic, "usefulness", [0.94, 0.95, 0.94], unit="number", n=1000)
    controls = {CLAIM.chapter: helpers.record([known], chapter=CLAIM.chapter)}

    def first() -> str:
        return ledger.entries("quick", ledger.executed(), controls)[0].state

    assert first() == "not run"
    write_results(build, CLAIM.chapter, [], dataset="cifar10")
    assert first() == "held"
    record(build, 0.1, 0.1, 0.11)
    assert first() == "not held"
    write_results(build, CLAIM.chapter, [])  # planted images, but not measured
    assert first() == "not run"


def test_too_few_seeds_are_named_where_no_run_has_enough(build: Path) -> None:
    record(build, 0.98, 0.98, claim=OWN, name="steps=1", day=2, **OWN.setting)
    record(build, 0.98, claim=OWN, name="steps=2", **OWN.setting)
    assert own_entry().words == "not comparable (2 seeds, the claim asks for 3)"


def test_the_edition_of_the_book_is_not_changed_by_other_runs(build: Path) -> None:
    record(build, 0.1, 0.1, 0.11, name="steps=1")
    record(build, 0.1, 0.1, 0.11, profile="smoke")
    assert {entry.state for entry in entries()} == {"not run", "not tested"}


def test_what_cannot_be_read_counts_as_not_run(build: Path) -> None:
    """The pages say what is wrong with it; a ledger without it is true."""
    record(build, 0.94, 0.95, 0.94, schema=99)
    assert entries()[0].state == "not run"
    path = build / "executed" / "quick" / f"{CLAIM.chapter}.ipynb"
    record(build, 0.94, 0.95, 0.94)
    assert entries()[0].state == "held"
    path.with_suffix(".partial.ipynb").write_text(path.read_text())
    whole = path.read_text()
    path.write_text(whole.replace("0.95", "0.99"))  # by hand
    assert entries()[0].state == "not run"
    for share in (0, 0.5):
        path.write_text(whole[:int(share * len(whole))])
        assert entries()[0].state == "not run"


def test_the_file_holds_what_the_page_holds(build: Path, tmp_path: Path) -> None:
    record(build, 0.94, 0.95, 0.94)
    found = entries()
    ledger.write(tmp_path / "ledger.json", found)
    rows = json.loads((tmp_path / "ledger.json").read_text())
    assert len(rows) == len(claims.load())
    assert rows[0]["value"] == pytest.approx(0.943333, abs=1e-6)
    assert (rows[0]["n"], rows[0]["values"], rows[0]["state"]) == (1000, [0.94, 0.95, 0.94], "held")
    for entry in found:
        state = entry.state.replace(" ", "-")
        assert f'<details class="claim verdict-{state}" id="claim-{entry.claim.id}"' in page(found)
    assert f'href="../records/{CLAIM.chapter}.html#{CLAIM.statistic}">Its record<' in page(found)
    assert page(found).count("Its record") == 1
    assert f'id="claim-{CLAIM.id}"' in found[0].verdict._repr_html_()  # type: ignore[union-attr]  # where it leads


def test_controls_and_sanity_checks_stand_apart_from_what_the_papers_claim(build: Path) -> None:
    parts = re.split(r"<h3>([^<]+)</h3>", page(entries()))
    roles = {"Claims of the papers": "paper", "The same at the papers&#39; own size": "paper",
             "Our controls": "control", "Sanity checks": "sanity"}
    for title, rows in zip(parts[1::2], parts[2::2], strict=True):
        assert set(re.findall(r'data-role="(\w+)"', rows)) == {roles[title]}


def test_a_claim_leads_to_the_verdict_that_its_chapter_shows(build: Path) -> None:
    record(build, 0.94, 0.95, 0.94)
    shown = ledger.executed()["quick"]
    judged = results.RecordedVerdict(claim=CLAIM.id, held="held")
    shown[CLAIM.chapter] = shown[CLAIM.chapter].model_copy(update={"verdicts": [judged]})
    written = table(entries(), shown, "../{}.html".format)
    assert re.findall(r'href="([^"]+#claim-[^"]+)"', written) == [f"../notebooks/{CLAIM.chapter}.html#claim-{CLAIM.id}"]


def test_counts_add_up(build: Path) -> None:
    record(build, 0.94, 0.95, 0.94)
    counts = ledger.counts(entries())
    assert list(counts) == ["Ilyas et al. 2019", "Kim et al. 2021", "Li et al. 2023", "other work", "our controls",
                            "sanity checks"]
    assert counts["sanity checks"]["held"] == 1  # though it is about a definition of Ilyas et al.
    assert counts["Ilyas et al. 2019"]["held"] == 0
    assert sum(sum(states.values()) for states in counts.values()) == len(claims.load())
    for role, row in (("control", "our controls"), ("sanity", "sanity checks")):
        assert sum(counts[row].values()) == sum(claim.role == role for claim in claims.load().values())


# --- how many verdicts chance makes -----------------------------------------------------------------------------------

def measured(*values: float, unit: str = "number", n: int = 0) -> Result:
    return Result.of("a", "x", values, unit=unit, n=n)


def test_the_p_value_of_three_seeds_by_hand() -> None:
    """t = .2 sqrt(3) / .1 = 3.4641 with two degrees of freedom, whose tails hold 1 - t / sqrt(2 + t^2)."""
    t = 0.2 * math.sqrt(3) / 0.1
    assert ledger.p_value(Criterion(above=0), measured(0.1, 0.2, 0.3)) == pytest.approx(1 - t / math.sqrt(2 + t * t))
    assert ledger.p_value(Criterion(below=0), measured(0.1, 0.2, 0.3)) == pytest.approx(0.0741799)
    assert ledger.p_value(Criterion(above=0.2), measured(0.1, 0.2, 0.3)) == pytest.approx(1)  # at the bound itself


@pytest.mark.parametrize(("values", "bound"), [((-0.01, 0.0, 0.02), 0.05), ((-0.04, -0.03, 0.0), 0.02)])
def test_the_p_value_of_no_difference_is_the_larger_of_two_tests(values: tuple[float, ...], bound: float) -> None:
    above = stats.ttest_1samp(values, -bound, alternative="greater").pvalue
    below = stats.ttest_1samp(values, bound, alternative="less").pvalue
    inside = abs(sum(values) / 3) < bound
    expected = max(above, below) if inside else stats.ttest_1samp(values, -bound).pvalue
    assert ledger.p_value(Criterion(within=bound), measured(*values)) == pytest.approx(expected)


@given(st.lists(st.floats(0.05, 0.95), min_size=2, max_size=6), st.sampled_from(["share", "correlation", "number"]),
       st.booleans(), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_where_the_interval_ends_at_the_bound_p_is_what_it_leaves_out(values: list[float], unit: str, upper: bool,
                                                                      confidence: float) -> None:
    result = measured(*values, unit=unit, n=100)
    low, high = result.limits(confidence) or (0, 0)
    assume(0 < low < high - 1e-6 and high < 1)  # a share's interval is cut at 0 and 1
    criterion = Criterion(below=high) if upper else Criterion(above=low)
    assert ledger.p_value(criterion, result) == pytest.approx(1 - confidence, abs=1e-6)


# Of the example of Benjamini and Hochberg (1995), who reject four of these fifteen hypotheses.
P = (0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590,
     1.0)


def test_fifteen_verdicts_are_adjusted_as_benjamini_and_hochberg_did(build: Path,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    judged = [claim for claim in claims.load().values() if claim.role != "sanity" and not claim.setting][:len(P)]
    for chapter in {claim.chapter for claim in judged}:
        write_record(build, [claim for claim in claims.load().values() if claim.chapter == chapter and not claim.setting
                             and (claim in judged or claim.role == "sanity")])
    left = iter(P)
    monkeypatch.setattr(ledger, "p_value", lambda criterion, result: next(left))
    found = {entry.claim.id: entry for entry in entries()}
    q = [found[claim.id].q for claim in judged]
    assert q[3] == pytest.approx(0.0095 * 15 / 4)
    assert sum(value is not None and value < 0.05 for value in q) == 4
    assert all(entry.q is None for entry in found.values() if entry.claim not in judged)
    assert any(entry.state == "held" for entry in found.values() if entry.claim.role == "sanity")
    assert not found[judged[3].id].fragile
    assert found[judged[4].id].words.endswith(f", fragile (q = {0.0201 * 15 / 5:.3f})")
    assert found[judged[4].id].row["q"] == pytest.approx(0.0201 * 15 / 5)


def write_record(build: Path, judged: list[claims.Claim]) -> None:
    """A chapter in which all these claims are held, and their controls: values in the middle of where they may lie."""
    criteria = {id: gate for claim in judged for id, gate in claim.gates.items()}
    criteria |= {claim.statistic: claim.criterion for claim in judged}
    threats = {claim.statistic: claim.threat for claim in judged}
    found = []
    for id, criterion in criteria.items():
        middle = float(np.mean(np.clip(criterion.region, -2, 2)))
        found.append(Result.of(id, "x", [middle - 1e-3, middle, middle + 1e-3] * 2, unit="number", n=1000,
                               threat=threats.get(id) or "none"))
    write_results(build, judged[0].chapter, found)


def test_editions_stand_beside_each_other(build: Path) -> None:
    def beside() -> str:
        kept = ledger.executed()
        found = {name: ledger.entries(name, kept) for name in ("quick", "planted")}
        return html("beside", editions=found, root="../..")

    record(build, 0.94, 0.95, 0.94, profile="quick")
    assert beside().count("<tr") == 2  # the head, and a row for the one claim that an edition judges
    assert beside().count("not yet recorded") == 1
    record(build, 0.5, 0.8, 0.99, profile="planted")
    assert "they differ" not in beside()  # undecided contradicts nothing
    record(build, 0.1, 0.1, 0.11, profile="planted")
    for words in ("<strong>they differ</strong>", "✓ held", "✗ not held", "n = 1000, 3 seeds",
                  f'href="../../records/planted/{CLAIM.chapter}.html#{CLAIM.statistic}"',
                  f'href="../../book/ledger.html#claim-{CLAIM.id}"'):
        assert beside().count(words) >= 1
    assert beside().count("<strong>they differ</strong>") == 1


# --- when a criterion was written ------------------------------------------------------------------------------------

def git(folder: Path, *words: str, date: str = "2026-01-01T00:00:00+00:00") -> str:
    environment = {"GIT_COMMITTER_DATE": date, "GIT_AUTHOR_DATE": date, "HOME": str(folder), "PATH": "/usr/bin:/bin",
                   "GIT_CONFIG_NOSYSTEM": "1"}
    identity = ["-c", "user.name=A", "-c", "user.email=a@b"]
    return subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True,
                          env=environment).stdout.strip()


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """Three commits: an unrelated one, two claims, then a new criterion for the second."""
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "begin")
    path = tmp_path / "claims.yml"
    (tmp_path / "other").write_text("a")
    git(tmp_path, "add", "other")
    git(tmp_path, "commit", "-qm", "other")
    path.write_text("- id: one\n  criterion: {above: 1}\n\n# two\n- id: two\n  criterion: {above: 2}\n  seen: no\n")
    git(tmp_path, "add", "claims.yml")
    git(tmp_path, "commit", "-qm", "claims", date="2026-02-01T00:00:00+00:00")
    path.write_text("- id: one\n  criterion: {above: 1}\n\n# 2\n- id: two\n  criterion: {above: 3}\n  seen: yes\n")
    git(tmp_path, "commit", "-qam", "change", date="2026-03-01T00:00:00+00:00")
    return path


def test_the_commit_that_last_changed_a_criterion(history: Path) -> None:
    commits = git(history.parent, "log", "--format=%H").splitlines()
    history.write_text("# a line more\n" + history.read_text().replace("seen: yes", "seen: maybe"))
    one = ledger.Commit(commits[1][:10], datetime(2026, 2, 1, tzinfo=UTC), "- id: one\n  criterion: {above: 1}")
    two = ledger.Commit(commits[0][:10], datetime(2026, 3, 1, tzinfo=UTC),
                        "- id: two\n  criterion: {above: 3}\n  seen: yes")
    assert ledger.criterion_commits(history) == {"one": one, "two": two}


@pytest.mark.parametrize("line", ["statistic: b", "gates: {g: {above: 0}}", "arms: [x, y]"])
def test_another_question_under_an_old_criterion_is_as_young_as_the_question(history: Path, line: str) -> None:
    old = history.read_text()
    history.write_text(old.replace("  criterion: {above: 1}\n", f"  criterion: {{above: 1}}\n  {line}\n"))
    assert set(ledger.criterion_commits(history)) == {"two"}  # not committed
    git(history.parent, "commit", "-qam", "another question", date="2026-04-01T00:00:00+00:00")
    found = ledger.criterion_commits(history)
    assert found["one"].time == datetime(2026, 4, 1, tzinfo=UTC)
    assert found["one"].text == f"- id: one\n  criterion: {{above: 1}}\n  {line}"
    assert found["two"].time == datetime(2026, 3, 1, tzinfo=UTC)


def test_a_criterion_that_is_not_committed_has_no_commit(history: Path) -> None:
    history.write_text(history.read_text() + "- id: three\n  criterion: {below: 0}\n")
    assert set(ledger.criterion_commits(history)) == {"one", "two"}


def test_what_is_older_than_a_shallow_clone_has_no_commit(history: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{tmp_path}", "shallow")
    assert ledger.criterion_commits(tmp_path / "shallow" / "claims.yml") == {}


def test_without_a_history_nothing_is_claimed(tmp_path: Path) -> None:
    (tmp_path / "claims.yml").write_text("- id: one\n  criterion: {above: 1}\n")
    assert ledger.criterion_commits(tmp_path / "claims.yml") == {}


@pytest.mark.parametrize(("day", "in_time"), [("2029-12-31", True), ("2030-01-02", False)])
def test_a_criterion_younger_than_its_result_is_marked(build: Path, monkeypatch: pytest.MonkeyPatch, day: str,
                                                       in_time: bool) -> None:
    record(build, 0.94, 0.95, 0.94)
    time = datetime.fromisoformat(f"{day}T00:00:00+00:00")
    commits = {CLAIM.id: ledger.Commit("0123456789", time, "- id: x\n  criterion: {above: <1}")}
    monkeypatch.setattr(ledger, "criterion_commits", lambda: commits)
    found = entries()
    assert found[0].in_time is in_time
    assert ("Post hoc" in page(found)) is not in_time
    assert f"{day} 00:00 UTC<pre>- id: x\n  criterion: {{above: &lt;1}}</pre>" in page(found)
