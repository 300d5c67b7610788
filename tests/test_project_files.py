"""Files of the project that a reader may damage: each gives what it holds, or one line that names it."""

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from book.press import chapters, editions, environment, make, stages
from nbutils.lab import claims, parameters, results
from nbutils.lab.results import Result
from nbutils.messages import read_project_file
from tests.helpers import CLAIM, record

CLAIMS = CLAIM.replace("published: none", """value: [{table: Table 1, model: VGG-16}]
  setting: {dataset: cifar10, train_size: 50000}""") + """  history:
    - {until: 2026-11-20, reason: the bound was mistyped, was: {place: Section 3}}
"""
PAPERS = """% a comment
@article{ilyas2019,
  author = {Ilyas, Andrew and Santurkar, Shibani and Tsipras, Dimitris},
  title  = {Not {Bugs}},
  year   = {2019},
}
@book{kim2021, author = "Kim, Junho and Lee, Byung-Kwan", title = "Distilling", year = 2021}
"""
PUBLISHED = """table,dataset,model,method,attack,quantity,value,unit,certainty
Table 1,CIFAR-10,VGG-16,ADV,none,"accuracy, all",79.73,percent,certain
Table 2,CIFAR-10,WRN,ADV,PGD,accuracy,0.5,ratio,inferred
"""
CONTENTS = """format: jb-book
root: book/intro
parts:
  - caption: "I. First"
    chapters:
      - file: notebooks/01_x
      - file: book/reading
"""
STAGES = """# a comment
- {chapter: 01_known_features, set: seeds=1 steps=5, minutes: 12, gives: networks}
- {chapter: 01_known_features, minutes: 15, keep: true}
"""
CONFIG = """title: "A: book"
bibtex_bibfiles: [book/references.bib]
html:
  home_page_in_navbar: true
execute: {execute_notebooks: "off"}
parse: {}
sphinx: {a: b}
"""
SPEED = 'measure,against,asked\n"PGD, one",Ours,< 1.05\nCW,Theirs,\n'
PROFILE = (parameters.PROFILES / "smoke.yml").read_text()
NOTEBOOK = nbformat.v4.new_notebook(cells=[
    nbformat.v4.new_markdown_cell("# Title", id="a"),
    nbformat.v4.new_code_cell("x = 1", id="b", execution_count=1,
                              outputs=[nbformat.v4.new_output("stream", text="one")])])
RECORD = results.dumps(record(
    [Result.of("a.b", "share", [0.5, 0.25], n=8), Result.of("a.c", "ratio", [2.0], unit="number")],
    chapter="01_x", verdicts=[{"claim": "c", "held": "held"}]))
STAMP = {"set": "", "code": "0", "criteria": "0", "engine": "0", "published": "0"}
STAMPED = nbformat.from_dict({**NOTEBOOK, "metadata": {"edition": {
    **STAMP, "content": editions._hash([STAMP, NOTEBOOK.cells, RECORD])}}})

# Path in the project -> text, and what reads it.
FILES: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "book/claims.yml": (CLAIMS, claims.load.__wrapped__),
    "book/references.bib": (PAPERS, claims.papers.__wrapped__),
    "book/published/ilyas2019.csv": (PUBLISHED, lambda path: results.printed.__wrapped__(path.stem)),
    "book/profiles/smoke.yml": (PROFILE, lambda path: parameters.resolve({"profile": path.stem}, ["profile"])),
    "book/editions/order.yml": ("# the best first\n- planted\n- smoke\n", lambda path: editions.order()),
    "book/editions/smoke/stages.yml": (STAGES, lambda path: stages.stages("smoke")),
    "book/editions/smoke/01_x.json": (RECORD, lambda path: editions.kept()),
    "book/editions/planted/01_x.ipynb": (nbformat.writes(STAMPED), lambda path: editions.kept()),
    "_toc.yml": (CONTENTS, lambda path: chapters.every("", path.parent)),
    "_config.yml": (CONFIG, lambda path: read_project_file(path, make.Config)),
    "tests/benchmarks/recorded.csv": (SPEED, lambda path: read_project_file(path, list)),
    "notebooks/01_x.ipynb": (nbformat.writes(NOTEBOOK), chapters.read),
}


@pytest.fixture(scope="module")
def project() -> Iterator[Path]:
    """A project of these files alone, all of them sound."""
    known = chapters.every("")
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        root = Path(folder)
        for name, (text, _) in FILES.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        (root / "book/editions/planted/01_x.json").write_text(RECORD)
        for page in ("intro", "reading"):
            (root / f"book/{page}.md").touch()
        for other in ("planted", "quick"):
            (root / f"book/profiles/{other}.yml").write_text(PROFILE)
        patch.setattr(results, "ROOT", root)
        patch.setattr(parameters, "PROFILES", root / "book" / "profiles")
        patch.setattr(stages, "every", lambda profile: known)
        for module in (editions, stages):
            patch.setattr(module, "EDITIONS", root / "book" / "editions")
        results.printed.cache_clear()
        yield root
    results.printed.cache_clear()


def told(project: Path, name: str, content: bytes | None) -> str:
    """What is said of a file of this content, or of a folder in its place; "" where nothing is wrong with it.

    Anything but a line that names the file is an error.
    """
    (text, read), path = FILES[name], project / name
    path.unlink()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    try:
        read(path)
    except ValueError as error:
        line = str(error)
        assert "\n" not in line
        assert len(line) < 600
        assert path.name in line or f"profile {path.stem!r}" in line, line
        return line
    finally:
        path.rmdir() if content is None else path.unlink()
        path.write_text(text)
    return ""


@st.composite
def damage(draw: st.DrawFn, text: str) -> bytes:
    """The text cut, with a byte changed, a line or a word gone or doubled, or with other content."""
    whole = text.encode()
    place = draw(st.integers(0, len(whole) - 1))
    lines, words = whole.splitlines(keepends=True), re.split(rb"(\w+)", whole)
    line, word = draw(st.integers(0, len(lines) - 1)), draw(st.integers(0, len(words) // 2 - 1)) * 2 + 1
    return draw(st.sampled_from([
        whole[:place],
        whole[:place] + bytes([whole[place] ^ draw(st.integers(1, 255))]) + whole[place + 1:],
        whole[:place] + bytes([whole[place] ^ 1 << draw(st.integers(0, 6))]) + whole[place + 1:],
        b"".join(lines[:line] + lines[line + 1:]),
        b"".join(lines[:line + 1] + lines[line:]),
        *(b"".join([*words[:word], other, *words[word + 1:]])
          for other in (b"", b"many", b"[]", b"{}", b"-1", b"nan", b"null", b"1e999", b"9" * 5000)),
        whole + b"\xff", whole.decode().encode("utf-16"), b"", b"\0", b"[]", b"{}", b"null", b"3", b"text", b"[1, 2]",
        b'{"a": 1}', b"- - -", b"a: 1\na: 2", b"[" * 400, b"&a [*a]", b'"', b"%",
    ]))


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
def test_a_damaged_file_gives_a_value_or_one_line_that_names_it(name: str, project: Path, data: st.DataObject) -> None:
    told(project, name, data.draw(damage(FILES[name][0])))


@pytest.mark.parametrize("name", FILES)
def test_a_sound_file_is_read_and_one_that_cannot_be_is_named(name: str, project: Path,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    text = FILES[name][0].encode()
    assert told(project, name, text) == ""
    assert told(project, name, b"") or name == "book/references.bib"  # where a paper without an entry is named
    assert "cannot be read (Is a directory)" in told(project, name, None) or "planted" in name  # changed by hand

    readable = Path.read_text

    def denied(self: Path, **options: Any) -> str:
        if self == project / name:
            raise PermissionError(13, "Permission denied")
        return readable(self, **options)

    monkeypatch.setattr(Path, "read_text", denied)
    assert "cannot be read (Permission denied)" in told(project, name, text) or "planted" in name


@pytest.mark.parametrize(("name", "old", "new", "words"), [
    ("book/published/ilyas2019.csv", "79.73", "79,73", "entry 1: 10 cells; expected 9, as the first line has"),
    ("book/published/ilyas2019.csv", "79.73", "many", "entry 1.value: expected a valid number"),
    ("book/published/ilyas2019.csv", "0.5", "nan", "entry 2.value: expected a finite number; found 'nan'"),
    ("book/published/ilyas2019.csv", "unit,", "value,", "line 1: column 'value'; expected a name for each, and each"),
    ("book/published/ilyas2019.csv", "unit,", "units,", "entry 1.unit: Field required"),
    ("book/published/ilyas2019.csv", "percent", "per cent", "'percent', 'ratio', 'count' or '1'; found 'per cent'"),
    ("book/references.bib", "  year   = {2019},\n", "", "entry 'ilyas2019': expected an author and a year"),
    ("book/references.bib", "author =", "autor =", "entry 'ilyas2019': expected an author and a year"),
    ("book/references.bib", "kim2021", "ilyas2019", "repeated bibliography entry: ilyas2019"),
    ("book/references.bib", "{2019}", "{2019", "syntax error in line"),
    ("book/editions/order.yml", "planted", "plantet", "'plantet' is no edition; did you mean 'planted'?"),
    ("book/editions/smoke/stages.yml", "minutes: 15", "minute: 15", "entry 2.minute: Unexpected keyword argument"),
    ("book/editions/smoke/stages.yml", "minutes: 15", "minutes: soon", "entry 2.minutes: expected a valid integer"),
    ("book/editions/smoke/stages.yml", "01_known", "01_know", "'01_know_features': no such chapter; did you mean"),
    ("book/editions/smoke/stages.yml", "steps=5", "steps", "entry 1.set: SET = 'steps': expected name=value"),
    ("_toc.yml", "file: notebooks", "fill: notebooks", "parts.entry 1.chapters.entry 1.file: Field required"),
    ("_toc.yml", "01_x", "02_x", "lists notebooks/02_x.ipynb, which is not there"),
    ("_toc.yml", "jb-book", "jb-bok", "format: expected 'jb-book'; found 'jb-bok'"),
    ("_toc.yml", "intro", "intrx", "lists book/intrx.md, which is not there"),
    ("_config.yml", "sphinx:", "sphynx:", "sphinx: Field required"),
    ("_config.yml", "{a: b}", "a", "sphinx: expected a valid dictionary; found 'a'"),
    ("_config.yml", "html:", "title:", "line 3: 'title' stands twice"),
    ("_config.yml", "  home", "\thome", "line 4: while scanning for the next token, found character '\\t'"),
    ("book/profiles/smoke.yml", "seeds: 2", "seeds: 2\nseeds: 3", "'seeds' stands twice"),
    ("book/profiles/smoke.yml", "seeds: 2", "seeds: 010", "seeds = '010': expected a whole number"),  # 8 in YAML 1.1
    ("book/profiles/smoke.yml", "seeds: 2", "seeds: 1:30", "seeds = '1:30': expected a whole number"),  # 90
    ("book/profiles/smoke.yml", "seeds: 2", "seeds: 1_0", "seeds = '1_0': expected a whole number"),  # 10
    ("book/profiles/smoke.yml", "seeds: 2", "seeds: yes", "seeds = 'yes': expected a whole number"),  # True
    ("book/editions/smoke/01_x.json", '"minutes":1.5,', "", "not a record of results (minutes: Field required)"),
    ("book/editions/smoke/01_x.json", "0.25", "0.75", "0.375; expected the mean of its values, 0.625"),
    ("book/editions/planted/01_x.ipynb", "one", "two", "planted/01_x.ipynb: changed by hand since it was recorded"),
    ("notebooks/01_x.ipynb", '"cell_type"', '"kind"', "not a notebook"),
    ("notebooks/01_x.ipynb", '"nbformat_minor": 5', '"nbformat_minor": null', "not a notebook (AssertionError"),
])
def test_the_line_names_the_fault(name: str, old: str, new: str, words: str, project: Path) -> None:
    text = FILES[name][0]
    if "minutes" in old and name.endswith(".json"):
        text = json.dumps({**json.loads(text), "check": None}, separators=(",", ":"))
    assert old in text
    assert words in told(project, name, text.replace(old, new, 1).encode())


@pytest.mark.parametrize("content", [b"[project\n", b"\xff", b"name = 1\nname = 2", b"[project]\nname = 'x"])
def test_no_environment_is_made_from_a_damaged_list_of_packages(content: bytes, tmp_path: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    (tmp_path / "pyproject.toml").write_bytes(content)
    with pytest.raises(ValueError, match="pyproject.toml: .+") as caught:
        environment.make()
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["pyproject.toml"]
