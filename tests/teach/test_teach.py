"""The course kit: nothing hidden reaches a student, and the same course gives the same files."""

import hashlib
import html
import io
import json
import re
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import scipy.stats
import torch
from safetensors.torch import load

from book.press import assignments, pdf, sheets, teach
from book.press.pages import teaching
from book.teach import worlds
from book.teach.worlds import World, own_seed
from nbutils import networks
from nbutils.machine import ROOT
from tests.helpers import assert_one_line

TINY = Path(__file__).with_name("tiny")
SOURCES = sorted([*assignments.SOURCES.glob("[0-9o]*.py"), *TINY.glob("*.py")])


@pytest.fixture
def small_worlds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worlds, "SIZES", {"train": 20, "test": 10})


@pytest.fixture
def no_chromium(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setattr(pdf, "CHROMIUM", ("nosuch-chromium",))


@pytest.fixture
def course(tmp_path: Path) -> Path:
    (tmp_path / "students.txt").write_text("ada\nbob\n")
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "salt").write_text("00" * 32)
    return tmp_path


def hidden_and_given(path: Path) -> tuple[set[str], set[str]]:
    """The lines of a source that no student may see, and those that all see; read without the press."""
    hidden, given, kind, inside = set(), set(), "text", False
    for line in path.read_text().splitlines():
        words = line.strip()
        if line.startswith("# %% "):
            kind = words.split()[2]
        elif words == "### BEGIN SOLUTION":
            inside = True
        elif words == "### END SOLUTION":
            inside = False
        elif words.strip("# "):
            (hidden if inside or kind in ("check", "rubric") else given).add(words.removeprefix("# "))
    return hidden, given


def unpacked(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_line_of_a_solution_check_or_rubric_is_in_a_file_for_students(path: Path, small_worlds: None) -> None:
    hidden, given = hidden_and_given(path)
    if path.stem == "opening":  # it is given whole
        assert not hidden
        return
    if (opening := path.with_name("opening.py")).exists():
        given |= hidden_and_given(opening)[1]
    one = assignments.read(path)
    files = unpacked(teach.handout([one], seed=1))
    assert files.keys() == {f"{path.stem}.ipynb", "world.safetensors"}
    cells = json.loads(files[f"{path.stem}.ipynb"])["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells)
    lines = {form for line in text.splitlines() for form in (line.strip(), line.strip().removeprefix("# "))}
    assert given <= lines
    assert len(hidden - given) > 5
    assert not (hidden - given) & lines
    assert not [line for line in hidden - given if len(line) > 30 and line in text]
    assert not re.search("BEGIN|HIDDEN|book[.]", files[f"{path.stem}.ipynb"].decode())
    printed = html.unescape(re.sub("<[^>]+>", "", sheets.sheet(one)))
    assert one.cells[1].source.splitlines()[-1] in printed
    assert not (hidden - given) & {line.strip() for line in printed.splitlines()}
    assert not [line for line in hidden - given if len(line) > 30 and line in printed]


def test_an_assignment_leads_to_its_chapter_where_the_book_is_on_the_web(small_worlds: None) -> None:
    one = assignments.read(assignments.sources()["03_wrong_labels_that_teach"])
    heads = {book: json.loads(unpacked(teach.handout([one], 1, book))[f"{one.name}.ipynb"])["cells"][0]["source"]
             for book in ("https://book.example", "file:///media/html", "")}
    linked = "Chapter 3: [*Constructed data sets*](https://book.example/notebooks/03_constructed_datasets.html). About"
    assert linked in "".join(heads["https://book.example"])
    assert "](" not in "".join(heads["file:///media/html"]) + "".join(heads[""])


@pytest.mark.parametrize(("old", "new"), [
    ("### END SOLUTION", "### END SOLUTON"), ("### END SOLUTION", "## END SOLUTION"), ("### END SOLUTION", ""),
    ("### END SOLUTION", "### END SOLUTION."), ("### BEGIN SOLUTION", "### BEGIN"), ("### BEGIN SOLUTION", ""),
    ("### END SOLUTION", "### BEGIN SOLUTION"), ("### BEGIN SOLUTION", "### BEGIN SOLUTION\n### BEGIN SOLUTION")])
@pytest.mark.parametrize("number", [1, 2])
def test_a_solution_that_could_not_be_taken_out_is_refused(tmp_path: Path, old: str, new: str, number: int) -> None:
    source = assignments.sources()["01_useful_features"].read_text()
    before, *rest = re.split(f"(?={old})", source)
    path = tmp_path / "01_x.py"
    path.write_text(source)
    assert assignments.read(path)
    rest[number] = rest[number].replace(old, new, 1)
    path.write_text(before + "".join(rest))
    assert_one_line(lambda: assignments.read(path), [str(path), "a solution that could not be taken out"])


def test_an_assignment_without_cells_is_named(tmp_path: Path) -> None:
    (tmp_path / "01_x.py").write_text("")
    assert_one_line(lambda: assignments.read(tmp_path / "01_x.py"), ["01_x.py: no cell"])


@pytest.mark.parametrize("content", ["", "a", "00" * 31, "00" * 33, "zz" * 32])
def test_a_salt_that_is_none_is_refused(course: Path, content: str) -> None:
    assert teach.salt(course) == bytes(32)
    (course / "private" / "salt").write_text(content)
    assert_one_line(lambda: teach.salt(course), [str(course / "private" / "salt"), "expected 64 hexadecimal digits"])


def test_an_editors_mark_is_no_part_of_a_name_and_a_home_that_is_not_is_named(course: Path) -> None:
    (course / "students.txt").write_text("\ufeffada\nbob\n")
    assert teach.students(course) == ["ada", "bob"]
    assert_one_line(lambda: teach.make(Path("~nosuch/c")), ["~nosuch/c/students.txt: no such file"])


def test_no_source_of_an_assignment_is_a_page_of_the_book() -> None:
    assert "book/teach/" not in (ROOT / "_toc.yml").read_text()
    config = (ROOT / "_config.yml").read_text()
    assert "only_build_toc_files: true" in config
    assert "html_copy_source: false" in config
    pages = "\n".join(path.read_text() for path in (ROOT / "book").glob("*.md"))
    for path in SOURCES:
        assert not [line for line in hidden_and_given(path)[0] if len(line) > 20 and line in pages]
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert not [name for name in [*packaged["packages"], *packaged["package-data"]["nbutils.book"]] if "teach" in name]


def digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file()}


def test_two_generations_are_the_same_to_the_last_byte_and_slides_tell_no_solution(
        course: Path, small_worlds: None, no_chromium: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBUTILS_BUILD", str(course / "nothing rendered"))
    teach.make(course)
    first = digests(course)
    teach.make(course)
    assert digests(course) == first
    assert {"handout/ada.zip", "handout/practice.zip", "teacher/syllabus-1.html"} <= first.keys()
    assert {f"teacher/{name}.ipynb" for name in assignments.sources()} <= first.keys()
    assert first["handout/ada.zip"] != first["handout/bob.zip"]
    assert "{result}" not in "".join(path.read_text() for path in (course / "teacher").glob("*.*"))
    for path in (course / "teacher").glob("syllabus-*.html"):
        text = path.read_text()
        ids = {f"#{id}" for id in re.findall(r' id="([^"]+)"', text)}
        links = re.findall(r'<a href="([^"]*)"', text)
        assert links
        assert not [link for link in links if link not in ids and f"teacher/{link}" not in first]
    shown = html.unescape("".join(path.read_text() for path in (course / "teacher" / "slides").glob("*.html")))
    told = set().union(*(hidden_and_given(path)[0] for path in SOURCES))
    assert not [line for line in told if len(line) > 30 and line in shown]


def test_a_student_sees_what_is_stored_under_the_names_that_the_check_reads(capsys: pytest.CaptureFixture[str]) -> None:
    one = assignments.read(assignments.sources()["02_break_a_defence"])
    cells = assignments.notebook(one, "student").cells
    code = next(cell.source for cell in cells if cell.metadata.get("nbgrader", {}).get("grade_id") == "q2-check")
    exec(code, {"clean": 0.75, "model": None})
    assert capsys.readouterr().out == "clean = 0.75\nrobust = missing\n"


def test_a_sheet_has_formulas_for_mathjax_and_its_hints_at_the_end() -> None:
    for path in assignments.sources().values():
        text = path.read_text()
        questions, _, hints = sheets.sheet(assignments.read(path)).partition('<div class="hints">')
        assert questions.count("<h2>Question ") == 4
        assert "<strong>Question " not in questions
        assert hints.count("<strong>Question ") == text.count("<details>") > 0
        assert "details" not in questions + hints
        assert "`" not in hints  # what is code is set as code
        assert questions.count(r"\(") == text.partition("# %% rubric")[0].count("$") // 2


def test_no_chromium_is_told_and_nothing_is_printed(tmp_path: Path, no_chromium: None,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    sheets.make(tmp_path / "handout", TINY)
    assert capsys.readouterr().out.startswith("Assignments on paper are left out: no Chromium")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not pdf.chromium(), reason="no Chromium")
def test_a_sheet_printed_twice_is_the_same_to_the_last_byte(tmp_path: Path) -> None:
    for name in ("a", "b"):
        sheets.make(tmp_path / name, TINY)
    first, second = ((tmp_path / name / "01_tiny.pdf").read_bytes() for name in ("a", "b"))
    assert first == second
    assert first.startswith(b"%PDF-")
    assert b"(D:19800101000000" in first


def test_a_page_that_is_not_printed_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHROMIUM", "false")
    assert_one_line(lambda: pdf.print_page(tmp_path / "x.html", tmp_path / "x.pdf"), ["x.pdf was not printed: no word"])


def rows_of(page: str) -> list[list[str]]:
    return [re.findall(r"<td>(.*?)</td>", row, re.DOTALL) for row in re.findall(r"<tr>(<td>.*?)</tr>", page, re.DOTALL)]


def test_the_plans_have_as_many_rows_as_sessions_and_each_row_leads_to_all_that_it_takes() -> None:
    pages = teach.syllabi(book="https://book.example")
    assert {"syllabus-1.html", "syllabus-3.html", "syllabus-12.html"} == pages.keys()
    for name, text in pages.items():
        sessions, rows = int(re.findall(r"\d+", name)[0]), rows_of(text)
        assert len(rows) == sessions == len(re.findall(r"Before session \d+</h2>\n<p>.{20,}", text))
        for number, (session, objective, page, minutes, ask, assignment, slides) in enumerate(rows, start=1):
            chapter = re.fullmatch(r'<a href="https://book.example/notebooks/(\w+).html">\d+\. .+</a>', page)[1]
            assert (session, ask) == (str(number), f'<a href="#session-{number}">ask this</a>')
            assert slides == f'<a href="slides/{chapter}.html">slides</a>'
            assert len(objective) > 10
            assert int(minutes) > 0
            assert assignment == "none" or re.match(rf'<a href="{chapter[:3]}\w+\.ipynb">', assignment)
    assert all(f"{name}.ipynb" in pages["syllabus-12.html"] for name in assignments.sources())


def test_the_rows_of_a_plan_in_the_book_lead_to_its_pages() -> None:
    builder = SimpleNamespace(get_relative_uri=lambda page, to: f"../{to}.html")
    env = SimpleNamespace(app=SimpleNamespace(builder=builder), docname="book/teach")
    directive = SimpleNamespace(env=env, arguments=["12"])
    made = {f"../{name}.html" for name, *_ in teaching.pages(SimpleNamespace())}
    for _, _, page, _, ask, assignment, _ in rows_of(teaching.Syllabus.html(directive)):
        chapter = re.match(r'<a href="\.\./(notebooks/\w+)\.html">', page)[1]
        context = {"body": '<div class="predict admonition"><p>...</div><div class="predict admonition">'}
        teaching.named(SimpleNamespace(), chapter, "page.html", context, None)
        (id,) = re.findall('id="(.*?)"', context["body"])
        assert f'href="../{chapter}.html#{id}"' in ask
        assert assignment == "none" or re.match('<a href="(.*?)"', assignment)[1] in made
        assert (ROOT / f"{chapter}.ipynb").exists()


def test_the_pages_of_the_book_are_those_given_or_those_rendered_here(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBUTILS_BUILD", str(tmp_path))
    assert teach.address("") == ""
    assert teach.address("https://book.example/") == "https://book.example"
    assert_one_line(lambda: teach.address(str(tmp_path)), [str(tmp_path), "no rendered book; expected a folder"])
    (tmp_path / "_build" / "html" / "notebooks").mkdir(parents=True)
    assert teach.address("") == teach.address(str(tmp_path / "_build" / "html")) == (
        tmp_path / "_build" / "html").as_uri()


def test_a_world_is_of_one_name_and_one_salt(small_worlds: None) -> None:
    seed = own_seed(b"salt", "ada")
    assert seed == own_seed(b"salt", "ada")
    assert len({seed, own_seed(b"salt", "bob"), own_seed(b"pepper", "ada")}) == 3
    assert 0 <= seed < 2**48
    world = World(seed)
    given = load(world.file())
    assert given.keys() == {"train.x", "train.y", "test.x", "test.y"}  # and nothing of the truth
    assert torch.equal(given["test.y"], world.test.shape)
    assert (given["train.x"].float() / 255 - world.train.x).abs().max() <= 0.5 / 255 + 1e-6
    assert torch.equal(world.seen("test").x, given["test.x"].float() / 255)
    assert world.file() == World(seed).file()
    assert len({World(other).law.rho for other in range(20)}) == 4
    assert (teach.world_seed(b"salt", "ada"), teach.world_seed(b"salt", teach.PRACTICE)) == (seed, 0)


def test_points_are_those_of_the_properties_that_hold_up_to_the_first_error(capsys: pytest.CaptureFixture[str]) -> None:
    def check():
        yield 1, torch.tensor(True), "first"
        yield 2, False, "second"
        yield 1, SimpleNamespace().radius, "third"

    assert worlds.points(check()) == 1
    assert capsys.readouterr().out == "1 of 1: first\n0 of 2: second\nstopped: AttributeError: there is no 'radius'\n"


@pytest.mark.parametrize("name", ["01_useful_features"])
def test_the_solution_has_all_points_in_two_worlds_and_the_handout_none(
        name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one = assignments.read(assignments.sources()[name])

    def earned(seed: int, solved: bool) -> dict[str, float]:
        world, names, found = World(seed), {}, {}
        Path("world.safetensors").write_bytes(world.file())
        for cell in one.cells:
            if cell.kind in ("code", "answer"):
                exec(cell.source if solved or cell.kind == "code" else assignments.stubbed(cell.source), names)
            elif cell.kind == "check":
                exec(cell.source, check := {})
                found[cell.question] = worlds.points(check[cell.question](SimpleNamespace(**names), world))
        return found

    for seed in (3, own_seed(b"salt", "ada")):
        assert earned(seed, solved=True) == one.points
    assert sum(earned(3, solved=False).values()) == 0


@pytest.mark.parametrize("name", ["02_break_a_defence", "03_wrong_labels_that_teach"])
def test_a_check_takes_an_answer_that_treats_its_network_as_any_of_pytorch(name: str) -> None:
    one = assignments.read(assignments.sources()[name])
    answer, check = (next(cell.source for cell in one.cells if (cell.kind, cell.question) == (kind, "q1"))
                     for kind in ("answer", "check"))
    names = {"torch": torch, "model": networks.build("small", 10, seed=0).eval()}
    exec(answer.replace("### BEGIN SOLUTION", "model.eval(), model.zero_grad(), next(model.parameters())"), names)
    exec(check, found := {})
    assert worlds.points(found["q1"](SimpleNamespace(**names), World(3))) == one.points["q1"]


def check_of(name: str, question: str) -> Callable:
    one = assignments.read(assignments.sources()[name])
    (source,) = (cell.source for cell in one.cells if (cell.kind, cell.question) == ("check", question))
    exec(source, found := {})
    return found[question]


@pytest.mark.parametrize(("threshold", "points"), [
    (lambda variance: variance.amax(1, keepdim=True), 3), (lambda variance: variance.max(), 1),
    (lambda variance: variance[:1], 1),
], ids=["of each image", "of the batch", "of the first image"])
def test_a_mask_that_looks_at_other_images_has_no_points_for_leaving_them(threshold: Callable, points: int) -> None:
    mine = SimpleNamespace(robust_channels=lambda sigma, variance: sigma**2 > threshold(variance))
    assert worlds.points(check_of("05_masks_that_know_the_label", "q1")(mine, World(3))) == points


def test_the_share_without_gradient_is_that_of_the_network_as_it_is_used() -> None:
    """Whatever mode an attack has left it in."""
    class Moody(torch.nn.Module):
        inside = networks.build("small", 10, seed=0).eval()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inside(x) * (1e-9 if self.training else 10)

    model, seen = Moody().eval(), World(3).seen("test").take(100)
    pixels = seen.x.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(1000 * model(pixels), seen.y, reduction="sum")
    share = (torch.autograd.grad(loss, pixels)[0] == 0).flatten(1).all(1).double().mean().item()
    assert share > 0.1  # which images are right; in training mode it would be 0
    mine = SimpleNamespace(model=model.train(), zero_share=share)
    assert worlds.points(check_of("02_break_a_defence", "q3")(mine, World(3))) == 2


@pytest.mark.parametrize(("moved", "points"), [
    (lambda x, made, draw: x + draw * 0.5 / draw.flatten(1).norm(dim=1).view(-1, 1, 1, 1), 2),
    (lambda x, made, draw: x, 1), (lambda x, made, draw: made, 1.5),
    (lambda x, made, draw: x + draw[:1] * 0.5 / draw[:1].norm(), 1.5),
    (lambda x, made, draw: x + draw * 0.01 / draw.flatten(1).norm(dim=1).view(-1, 1, 1, 1), 1),
], ids=["random", "not moved", "those of the set", "one change for all", "too short"])
def test_a_control_whose_changes_are_not_random_or_not_as_long_earns_less(moved: Callable, points: float,
                                                                          small_worlds: None) -> None:
    drawn = World(3)
    x, generator = drawn.seen("train").x.clamp(0.1, 0.9), torch.Generator().manual_seed(0)
    own, draw = (torch.randn(x.shape, generator=generator) for _ in range(2))
    made = x + own * 0.5 / own.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    sets = {"train": SimpleNamespace(x=x, y=drawn.train.y), "test": drawn.seen("test")}

    def control(images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot((sets["test"].y + 1) % 10, 10)

    mine = SimpleNamespace(made=made, moved=moved(x, made, draw), learned=lambda x, labels, seed: control,
                           control=control, control_true=0.0, control_next=1.0)
    check = check_of("03_wrong_labels_that_teach", "q4")
    assert worlds.points(check(mine, SimpleNamespace(seen=sets.get))) == points


def test_two_counts_are_those_of_the_network_and_a_network_that_was_put_in_its_place_earns_nothing() -> None:
    world = World(3)
    names = {"torch": torch, "train": None, "test": world.seen("test")}
    for cell in assignments.read(assignments.sources()["08_two_attacks_at_one_norm"]).cells:
        if cell.kind == "answer" or (cell.kind == "code" and "CW(steps" in cell.source):
            exec(re.sub("losses = .*", "model.eval()", cell.source), names)  # untrained, so nearly always wrong

    def earned(question: str, **answers: object) -> float:
        mine = SimpleNamespace(**names | answers)
        return worlds.points(check_of("08_two_attacks_at_one_norm", question)(mine, world))

    more = {"only_cw": names["only_cw"] + 20, "only_nrf": names["only_nrf"] + 20}  # with the same difference
    p_value = scipy.stats.binomtest(more["only_cw"], sum(more.values())).pvalue
    assert (earned("q4"), earned("q4", p_value=p_value, **more)) == (2, 1.5)
    assert earned("q3") == 0


@pytest.mark.parametrize(("old", "new", "words"), [
    ("# %% check q1 2", "# %% check q1", ["'# %% check q1' is no kind of cell"]),
    ("# %% answer q1", "# %% anser q1", ["'# %% anser q1' is no kind of cell"]),
    ("# %% check q2 3", "# %% check q1 3", ["checks for ['q1', 'q1']; expected one of each"]),
    ("# %% answer q2", "# %% answer q3", ["answers for ['q1', 'q3'], checks for ['q1', 'q2']"]),
])
def test_a_source_with_a_fault_is_named_in_one_line(old: str, new: str, words: list[str], tmp_path: Path) -> None:
    text = (TINY / "01_tiny.py").read_text()
    assert old in text
    (tmp_path / "01_tiny.py").write_text(text.replace(old, new))
    assert_one_line(lambda: assignments.read(tmp_path / "01_tiny.py"), ["01_tiny.py", *words])


@pytest.mark.parametrize(("text", "words"), [
    ("ada\nada\n", ["'ada' stands twice; expected each"]), ("Ada L\n", ["'Ada L'"]), ("../x\n", ["'../x'"]),
    ("practice\n", ["not 'practice'"]), ("\n", ["no student in it"]),
])
def test_a_name_that_cannot_be_a_folder_is_named(text: str, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "students.txt").write_text(text)
    assert_one_line(lambda: teach.students(tmp_path), ["students.txt", *words])


def test_a_course_without_names_or_inside_the_repository_is_refused(tmp_path: Path) -> None:
    assert_one_line(lambda: teach.students(tmp_path), ["students.txt: no such file"])
    assert_one_line(lambda: teach.salt(ROOT / "course"), ["lies in the repository"])
    assert not (ROOT / "course").exists()


def test_a_salt_is_drawn_once(tmp_path: Path) -> None:
    key = teach.salt(tmp_path / "course")
    assert len(key) == 32
    assert teach.salt(tmp_path / "course") == key
    assert (tmp_path / "course" / "private").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(("old", "new", "words"), [
    ("01_known_features", "01_known_featurs", ["no such chapter", "did you mean '01_known_features'?"]),
    ("01_tiny", "01_tine", ["no such assignment", "did you mean '01_tiny'?"]),
    ("minutes: 10", "minutes: ten", ["syllabi.yml", "minutes"]),
])
def test_a_plan_with_a_fault_is_named_in_one_line(old: str, new: str, words: list[str], tmp_path: Path) -> None:
    for path in TINY.iterdir():
        text = path.read_text()
        (tmp_path / path.name).write_text(text.replace(old, new) if path.suffix == ".yml" else text)
    assert_one_line(lambda: teach.syllabi(tmp_path), words)
