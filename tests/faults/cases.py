"""What people tried on the book, by kind. Each case says what the book should answer."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from tests.faults.book import TRACEBACK, Book, Case, Run, either, refused, works

CASES: list[Case] = []


def case(group: str, name: str) -> Callable[[Callable[[Book], str]], Callable[[Book], str]]:
    def kept(attempt: Callable[[Book], str]) -> Callable[[Book], str]:
        CASES.append(Case(group, name, attempt))
        return attempt

    return kept


# --- one value ------------------------------------------------------------------------------------------------------

VALUES = [  # what stands behind SET=, chapter, words of the line
    ("seeds=2001-13-45", "01", ("seeds",)),
    ("'seeds=!!int x'", "01", ("seeds",)),
    (f"seeds={'9' * 5000}", "01", ("seeds",)),
    ("eps=1e999999999", "01", ("eps",)),
    ("eps=1/0", "01", ("eps",)),
    ("eps=nan", "01", ("eps",)),
    ("eps=.inf", "01", ("eps",)),
    ("seeds=010", "01", ("seeds",)),
    ("seeds=1:30", "01", ("seeds",)),
    ("seeds=1_0", "01", ("seeds",)),
    ("seeds=0x10", "01", ("seeds",)),
    ("seeds=\uff12", "01", ("seeds",)),
    ("seeds=2 seeds=3", "01", ("seeds",)),
    ("seeds=", "01", ("seeds",)),
    ("seeds=true", "01", ("seeds",)),
    ("seeds=yes", "01", ("seeds",)),
    ("steps=010", "01", ("steps",)),
    ("steps=1:30", "01", ("steps",)),
    ("d_r_step_size=true", "03", ("d_r_step_size",)),
    ("d_nr_step_size=.inf", "03", ("d_nr_step_size",)),
    ("seedz=2", "01", ("seedz", "seeds")),
    ("seeds", "01", ("seeds", "=")),
    ("'seeds=2", "01", ("SET",)),
    ("device=cuda:99", "01", ("device",)),
    ("device=cuda:256", "01", ("device",)),
    ("train_size=1000000000", "01", ("train_size",)),
    ("test_size=1000000000000", "01", ("test_size",)),
    ("table_networks=vgg_small,vgg_small", "02", ("table_networks",)),
    ("table_methods=ADV,ADV", "02", ("table_methods",)),
    ("construct_size=101 train_size=100", "03", ("construct_size",)),
    ("transfer_networks=small", "04", ("transfer_networks",)),
    ("eps=0", "08", ("eps",)),
    ("'table_networks=small, resnet18'", "05", ("table_networks",)),
    ("profile=quick", "01", ("profile",)),
    (f"dataset={'x' * 300}", "02", ("dataset",)),
    ("dataset=folder:~nosuch/x", "02", ("dataset",)),
    ("dataset=''", "02", ("dataset",)),
]
for settings, chapter, words in VALUES:
    case("a value", f"SET={settings[:50]} in {chapter}")(
        lambda book, s=settings, c=chapter, w=words: refused(book.set(s, c), *w)
    )
case("a value", "test_size=40 in 09, which has no attack_size")(
    lambda book: either(book.set("test_size=40", "09"), "test_size")
)
case("a value", "no such profile")(lambda book: refused(book.make("book", PROFILE="smok"), "smok", "smoke"))
case("a value", "no such chapter")(lambda book: refused(book.make("book", "CHAPTER=99"), "99"))
case("a value", "no such edition")(lambda book: refused(book.make("book", "EDITION=bset"), "bset", "best"))
case("a value", "port in letters")(lambda book: refused(book.make("serve", "PORT=x"), "x"))


@case("a value", "serve on a port in use")
def _(book: Book) -> str:
    book.write("build/_build/html/index.html", "")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        return refused(book.make("serve", f"PORT={port}", seconds=30), port)


# --- the parameters cell --------------------------------------------------------------------------------------------

CELLS = [
    ('= "8/255"', "= (1", ("syntax",)),
    ('= "8/255"', '= "8/0"', ("eps",)),
    ("seeds: int = None", "seeds: int = [2]", ("seeds",)),
    ("seeds: int = None", "seeds: int = True", ("seeds",)),
    ("seeds: int = None", "seedz: int = 2", ("seedz", "seeds")),
]
for old, new, words in CELLS:

    @case("the parameters cell", new)
    def _(book: Book, old: str = old, new: str = new, words: tuple[str, ...] = words) -> str:
        book.cell("01", old, new)
        return refused(book.make("book", "CHAPTER=01"), *words)


@case("the parameters cell", "values typed there are marked as changed")
def _(book: Book) -> str:
    book.cell("01", "train_size: int = None", "train_size: int = 60")
    run = book.make("book", "CHAPTER=01")
    return works(run) if "train_size = 60" in book.executed("01").read_text() else f"not on the page: {run.output}"


@case("the parameters cell", "none at all")
def _(book: Book) -> str:
    path = next((book.root / "notebooks").glob("01_*"))
    path.write_text(path.read_text().replace('"parameters"', '"other"'))
    return refused(book.make("book", "CHAPTER=01"), "parameters")


# --- files of the project, damaged ----------------------------------------------------------------------------------

DAMAGE = {"empty": b"", "not UTF-8": b"\xff\xfe\x00", "half": None, "no such syntax": b"{[:\n\t- x"}
FILES = {
    "book/claims.yml": "book",
    "book/published/kim2021.csv": "book",
    "book/profiles/smoke.yml": "book",
    "_toc.yml": "book",
    "_config.yml": "book",
    "book/references.bib": "book",
    "book/reading.md": "book",
    "tests/benchmarks/recorded.csv": "book",
    "book/editions/planted/stages.yml": "stage",
    "book/editions/order.yml": "edition",
    "book/editions/planted/01_known_features.json": "edition",
    "book/editions/planted/01_known_features.ipynb": "edition",
}
COMMANDS = {
    "book": ("book", "CHAPTER=01"),
    "stage": ("stage", "EDITION=planted"),
    "edition": ("book", "EDITION=planted"),
}
for file, command in FILES.items():
    for how, content in DAMAGE.items():

        @case("a damaged file", f"{file}, {how}")
        def _(book: Book, file: str = file, command: str = command, content: bytes | None = content) -> str:
            whole = (book.root / file).read_bytes()
            book.write(file, whole[: len(whole) // 2] if content is None else content)
            return either(book.make(*COMMANDS[command]), file.split("/")[-1].split(".")[0])


@case("a damaged file", "a profile without a key")
def _(book: Book) -> str:
    book.replace("book/profiles/smoke.yml", "seeds: 2\n", "")
    return refused(book.make("book", "CHAPTER=01"), "smoke", "seeds")


@case("a damaged file", "a stray and a copied notebook")
def _(book: Book) -> str:
    source = next((book.root / "notebooks").glob("01_*"))
    shutil.copy(source, source.with_name("01_known_features-Copy1.ipynb"))
    book.write("notebooks/Untitled.ipynb", '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    return works(book.make("book", "CHAPTER=01"))


@case("a damaged file", "an editor's lock in book/")
def _(book: Book) -> str:
    (book.root / "book" / ".#intro.md").symlink_to("nowhere")
    return either(book.make("book", "CHAPTER=01"), "intro")


@case("a damaged file", ".snakemake is a file")
def _(book: Book) -> str:
    book.write(".snakemake", "x")
    return either(book.make("book", "CHAPTER=01"), ".snakemake")


# --- a run cut short ------------------------------------------------------------------------------------------------

for ending in (".ipynb", ".partial.ipynb"):
    for size in (0, 0.5):

        @case("a run cut short", f"executed{ending}, {size} of its bytes")
        def _(book: Book, ending: str = ending, size: float = size) -> str:
            first = book.make("book", "CHAPTER=01")
            whole = book.executed("01").read_bytes()
            book.executed("01", ending).write_bytes(whole[: int(size * len(whole))])
            return works(first) if first.status else works(book.make("book", "CHAPTER=01"))


@case("a run cut short", "SIGTERM to make, and again")
def _(book: Book) -> str:
    process = book.start("make", "book", "CHAPTER=01", "SET=train_size=3000 epochs=20")
    time.sleep(25)
    process.send_signal(signal.SIGTERM)
    stopped = book.end(process, 60)
    if TRACEBACK in stopped.output or stopped.status == 0:
        return f"exit {stopped.status}: {stopped.output}"
    left = subprocess.run(["pgrep", "-f", str(book.root)], capture_output=True, text=True).stdout.split()
    return f"processes go on: {left}" if left else works(book.make("book", "CHAPTER=01"))


@case("a run cut short", "a measuring cell run by hand changes no record")
def _(book: Book) -> str:
    first = book.make("book", "CHAPTER=01")
    before = {path: path.read_bytes() for path in book.build.rglob("*.json")}
    code = (
        "import runpy\nfrom nbutils import lab\nprofile='smoke'\nIn=['']\n"
        "run = lab.start('01_known_features', globals())\n"
        "run.number('known.tile', 'w', lambda v: v, [0.5, 0.5])\nrun.card()"
    )
    book.python(code)
    after = {path: path.read_bytes() for path in book.build.rglob("*.json")}
    return works(first) if before == after else "a record changed"


# --- the build folder -----------------------------------------------------------------------------------------------


@case("the build folder", "make clean where somebody keeps other things")
def _(book: Book) -> str:
    mine = book.home / "work"
    (mine / "results").mkdir(parents=True)
    (mine / "results" / "thesis.txt").write_text("years of work")
    run = book.make("clean", NBUTILS_BUILD=str(mine))
    if not (mine / "results" / "thesis.txt").exists():
        return "it was deleted"
    return either(run, str(mine))


@case("the build folder", "make clean after a run")
def _(book: Book) -> str:
    ran, cleaned = book.make("book", "CHAPTER=01"), book.make("clean")
    left = list(book.build.rglob("*")) if book.build.exists() else []
    return works(ran) if ran.status or (cleaned.status == 0 and not left) else f"left {left[:3]}: {cleaned.output}"


@case("the build folder", "a name with ~")
def _(book: Book) -> str:
    run = book.make("book", "CHAPTER=01", NBUTILS_BUILD="~/x", HOME=str(book.home))
    if (book.root / "~").exists():
        return "a folder called ~"
    return works(run) if (book.home / "x" / "_build" / "html" / "index.html").exists() else run.output


for name in ("a b", "a#b", "{x}", "a'b"):

    @case("the build folder", f"called {name}")
    def _(book: Book, name: str = name) -> str:
        return either(book.make("book", "CHAPTER=01", NBUTILS_BUILD=str(book.home / name)), name)


for name in ("store", "executed"):

    @case("the build folder", f"{name} is a file")
    def _(book: Book, name: str = name) -> str:
        book.write(f"build/{name}", "x")
        return either(book.make("book", "CHAPTER=01"), name)


@case("the build folder", "a loop of links")
def _(book: Book) -> str:
    (book.root / "build").symlink_to("build")
    return refused(book.make("book", "CHAPTER=01"), "build")


@case("the build folder", "a results file edited by hand is not read")
def _(book: Book) -> str:
    book.write("build/results/smoke/01_known_features.json", '{"schema": 1, "results": "nonsense", "verdicts": 3}')
    return either(book.make("book", "CHAPTER=01"), "01_known_features.json")


# --- many at once, other places --------------------------------------------------------------------------------------


@case("a machine", "four builds at once")
def _(book: Book) -> str:
    running = [book.start("make", "book", "CHAPTER=01") for _ in range(4)]
    ended = [book.end(process) for process in running]
    bad = [run for run in ended if run.status]
    finished = sum(run.output.count("01_known_features  finished") for run in ended)
    return works(bad[0]) if bad else "works" if finished == 1 else f"the chapter ran {finished} times"


@case("a machine", "the checkout was renamed")
def _(book: Book) -> str:
    first = book.make("book", "CHAPTER=01")
    moved = Book(book.root.with_name(book.root.name + " moved"))
    moved.home = book.home
    book.root.rename(moved.root)
    ended = moved.make("book", "CHAPTER=01")
    moved.root.rename(book.root)
    return works(first) if first.status else either(ended, "environment")


@case("a machine", "unpacked inside another repository")
def _(book: Book) -> str:
    shutil.rmtree(book.root / ".git")
    outer = book.root.parent
    subprocess.run(["git", "init", "-q"], cwd=outer, check=True, env=book.environment())
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "x"],
        cwd=outer,
        check=True,
        env=book.environment(),
    )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=outer, capture_output=True, text=True
    ).stdout.strip()
    ended = book.python("from nbutils.lab.runs import present_commit; print('commit', present_commit())")
    shutil.rmtree(outer / ".git")
    return "the commit of another repository" if commit in ended.output else works(ended, "commit")


@case("a machine", "GIT_DIR of somebody else's repository")
def _(book: Book) -> str:
    other = book.home / "other"
    subprocess.run(["git", "init", "-q", other], check=True, env=book.environment())
    run = book.run(
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "tests/press/test_ledger.py",
        "tests/press/test_editions.py",
        "-k",
        "commit",
        GIT_DIR=str(other / ".git"),
        GIT_WORK_TREE=str(other),
        GIT_INDEX_FILE=str(other / ".git" / "index"),
    )
    listed = subprocess.run(["git", "log", "--all", "--oneline"], cwd=other, capture_output=True, text=True).stdout
    return f"commits in it: {listed}" if listed else works(run)


@case("a machine", "SNAKEMAKE_PROFILE of another project")
def _(book: Book) -> str:
    return works(book.make("book", "CHAPTER=01", SNAKEMAKE_PROFILE="/nowhere"))


@case("a machine", "a home that cannot be written")
def _(book: Book) -> str:
    return either(book.make("book", "CHAPTER=01", HOME="/proc"), "HOME")


@case("a machine", "LC_ALL=C")
def _(book: Book) -> str:
    return works(book.make("book", "CHAPTER=01", LC_ALL="C"))


# --- security ---------------------------------------------------------------------------------------------------------

for variable in ("PROFILE", "EDITION", "STAGE", "PORT", "NBUTILS_BUILD", "CHAPTER", "SET", "PYTHON"):
    for text in ('"; touch bad; "', "`touch bad`", "$(touch bad)", "'; touch bad; '"):

        @case("security", f"{variable}={text}")
        def _(book: Book, variable: str = variable, text: str = text) -> str:
            target = {"STAGE": "stage", "PORT": "serve"}.get(variable, "book")
            extra = {"EDITION": "planted"} if variable == "STAGE" else {}
            runs = variable in ("NBUTILS_BUILD", "PYTHON")  # any name will do, where all is installed: a chapter runs
            run = book.make(target, *["CHAPTER=01"] * runs, seconds=400 if runs else 60, **extra | {variable: text})
            found = list(book.root.rglob("bad")) + list(book.home.rglob("bad"))
            return f"the shell ran it: {found}" if found else "works" if TRACEBACK not in run.output else run.output


@case("security", "PostScript named .png")
def _(book: Book) -> str:
    (book.images() / "train" / "cat" / "x.png").write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\nshowpage\n"
    )
    return refused(book.folder(), "x.png")


@case("security", "a class whose name is markup")
def _(book: Book) -> str:
    book.images(("<img src=x onerror=1>", "dog", "frog", "owl"))
    run = book.folder()
    pages = [path for path in book.build.rglob("*.html") if "<img src=x" in path.read_text()]
    return f"unescaped in {pages[:2]}" if pages else either(run, "img")


# --- images ---------------------------------------------------------------------------------------------------------

for size in ((8, 8), (28, 28), (48, 64), (1, 1), (33, 33), (64, 64)):
    for chapter in ("02", "09"):

        @case("images", f"{size[0]} x {size[1]} in {chapter}")
        def _(book: Book, size: tuple[int, int] = size, chapter: str = chapter) -> str:
            book.images(size=size)
            return either(book.chapter(chapter), str(size[0]))


for names in (("cat", "dog"), ("cat", "dog", "frog")):
    for chapter in ("02", "03", "04", "05", "08", "09", "12"):

        @case("images", f"{len(names)} classes in {chapter}")
        def _(book: Book, names: tuple[str, ...] = names, chapter: str = chapter) -> str:
            book.images(names)
            return either(book.chapter(chapter), "classes")


for names in (
    ("$\\foo$", "dog", "frog", "owl"),
    ("cost $1 and $2", "price_$10_$20", "_other", "owl"),
    ("x" * 200, "é", "e\u0301", "owl"),
):
    for chapter in ("02", "07"):

        @case("images", f"classes {names} in {chapter}")
        def _(book: Book, names: tuple[str, ...] = names, chapter: str = chapter) -> str:
            book.images(names)
            return either(book.folder(chapter=chapter), "class")


@case("images", "train and test hold the same files")
def _(book: Book) -> str:
    mine = book.images()
    shutil.rmtree(mine / "test")
    shutil.copytree(mine / "train", mine / "test")
    return refused(book.folder(), "train", "test")


@case("images", "16-bit grey")
def _(book: Book) -> str:
    mine = book.images(mode="L")
    ramp = np.linspace(0, 65000, 32 * 32).reshape(32, 32)
    for k, path in enumerate(mine.rglob("*.png")):  # no two alike
        Image.fromarray((ramp + k).astype(np.uint16)).save(path)
    run = book.python(f"from nbutils import images; print(images.load('folder:{mine}', 'train', 8).x.mean().item())")
    return (
        refused(run, "16")
        if run.status
        else works(run, "0.5")
        if "0.5" in run.output or "0.49" in run.output
        else run.output
    )


@case("images", "orientation in EXIF")
def _(book: Book) -> str:
    mine = book.images(size=(32, 32))
    picture = Image.new("RGB", (32, 32))
    picture.paste((255, 255, 255), (0, 0, 32, 8))
    exif = Image.Exif()
    exif[274] = 6
    for split in ("train", "test"):
        for k, path in enumerate((mine / split / "cat").iterdir()):
            picture.putpixel((0, 31), (k, len(split), 0))  # no two alike
            picture.save(path, exif=exif)
    run = book.python(
        f"from nbutils import images; s = images.load('folder:{mine}', 'train'); x = s.x[s.y == 0][0, 0]; "
        "print('turned' if x[:, -4:].mean() > .9 else 'as stored')"
    )
    return either(run, "orientation") if "as stored" not in run.output else "ignored"


@case("images", "hidden folders and files")
def _(book: Book) -> str:
    mine = book.images()
    for split in ("train", "test"):
        (mine / split / ".ipynb_checkpoints").mkdir()
        shutil.copy(mine / split / "cat" / "000.png", mine / split / ".ipynb_checkpoints" / "000.png")
        (mine / split / "cat" / "._000.png").write_bytes(b"\x00")
    run = book.python(
        f"from nbutils import images; print(images.load('folder:{mine}', 'train').num_classes, 'classes')"
    )
    return works(run, "4 classes")


@case("images", "other formats beside PNG")
def _(book: Book) -> str:
    mine = book.images()
    for k, ending in enumerate(("tif", "gif", "jfif", "bmp", "webp")):
        Image.open(mine / "train" / "cat" / f"{k:03}.png").save(
            mine / "train" / "cat" / f"y.{ending}", format={"jfif": "JPEG", "tif": "TIFF"}.get(ending)
        )
    run = book.python(f"from nbutils import images; print(len(images.load('folder:{mine}', 'train')), 'images')")
    return works(run) if "245 images" in run.output or "note:" in run.output else f"dropped in silence: {run.output}"


@case("images", "a FIFO")
def _(book: Book) -> str:
    os.mkfifo(book.images() / "train" / "cat" / "x.png")
    return either(book.folder(), "x.png")


@case("images", "a file that claims 40,000 x 40,000")
def _(book: Book) -> str:
    path = book.images() / "train" / "cat" / "x.png"
    data = bytearray((path.parent / "000.png").read_bytes())
    data[16:24] = (40_000).to_bytes(4, "big") * 2
    path.write_bytes(data)
    return refused(book.folder(), "x.png")


@case("images", "cut to half")
def _(book: Book) -> str:
    path = book.images() / "train" / "cat" / "000.png"
    path.write_bytes(path.read_bytes()[:200])
    return refused(book.folder(), "000.png")


@case("images", "replaced: the chapter runs again")
def _(book: Book) -> str:
    mine = book.images()
    first = book.folder()
    shutil.rmtree(mine)
    book.images(("a", "b", "c", "d"), each=55)
    second = book.folder()
    return works(first) if first.status else works(second, "finished")


@case("images", "NBUTILS_DATA is empty")
def _(book: Book) -> str:
    run = book.make("book", "CHAPTER=02", SET="dataset=cifar10", NBUTILS_DATA="", HOME=str(book.home))
    left = [path.name for path in book.root.glob("*cifar*")]
    return f"downloads into {left}" if left else either(run, "CIFAR")


# --- code and keys --------------------------------------------------------------------------------------------------

KEYS = '''
import torch
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
def cell(text):
    shell.run_cell(text).raise_error()
cell("""
import torch, torch.nn.functional as F
from dataclasses import dataclass
from nbutils import images, networks, training
train = images.load("planted", "train", 40)
""")
def key(body):
    cell(body)
    cell("model = training.trained('small', train, Mine(), training.Schedule(1), 0)")
    return shell.user_ns["model"].key
helper = "def helper(model, x, y):\\n    return {} * F.cross_entropy(model(x), y)\\n"
call = "    def __call__(self, model, x, y, *rest):\\n        return helper(model, x, y){}\\n"
mine = "@dataclass(frozen=True)\\nclass Mine:\\n" + call
one = key(helper.format(1) + mine.format(""))
assert key(helper.format(1) + mine.format("  # the same")) == one, "a comment changed the key"
assert key(helper.format(2) + mine.format("")) != one, "a helper's code is not in the key"
assert key(helper.format(1) + mine.format(" + 1")) != one, "the objective's code is not in the key"
print("keys differ")
'''


@case("code and keys", "an objective edited in a notebook")
def _(book: Book) -> str:
    return works(book.python(KEYS), "keys differ")


ATTACKED = """
import torch
from nbutils import networks
from nbutils.images import ImageSet
from nbutils.robustness import PGD, ThreatModel, evaluate
x, y = torch.rand(8, 3, 32, 32), torch.arange(8) % 4
model = networks.build("small", 4).eval()
attack = PGD(ThreatModel("Linf", 8 / 255), 3)
data = ImageSet(x, y, ("a", "b", "c", "d"), "noise")
"""
CODE = {
    "a network that works in place": (
        """
class InPlace(torch.nn.Module):
    name, key = "in place", ""
    def __init__(self):
        super().__init__()
        self.net = model
    def forward(self, x):
        x.sub_(.5).div_(.25)
        return self.net(x)
before = x.clone()
one, two = evaluate(InPlace(), data), evaluate(InPlace(), data)
assert torch.equal(data.x, before) and torch.equal(one.prediction, two.prediction)""",
        ("place",),
    ),
    "pixels in [-2, 2]": ("attack(model, 4 * x - 2, y); raise SystemExit('accepted')", ("[0, 1]",)),
    "int32 labels": ("attack(model, x, y.int())", ("label",)),
    "label -100": (
        "attack(model, x, y.index_fill(0, torch.tensor([0]), -100)); raise SystemExit('accepted')",
        ("label", "-100"),
    ),
    "under inference_mode": ("with torch.inference_mode():\n    attack(model, x, y)", ("inference_mode",)),
}
for name, (code, words) in CODE.items():

    @case("code and keys", name)
    def _(book: Book, code: str = code, words: tuple[str, ...] = words) -> str:
        shown = f"{ATTACKED}\ntry:\n" + "\n".join(f"    {line}" for line in code.strip().splitlines())
        shown += (
            "\nexcept (ValueError, RuntimeError) as error:\n    raise SystemExit(f'{type(error).__name__} {error}')"
        )
        run = book.python(shown)
        return f"accepted: {run.output}" if "accepted" in run.output else either(run, *words)


@case("code and keys", "papermill's lists")
def _(book: Book) -> str:
    source = next((book.root / "notebooks").glob("01_*"))
    run = book.run(
        sys.executable,
        "-m",
        "papermill",
        str(source),
        str(book.home / "out.ipynb"),
        "-k",
        "python3",
        "-y",
        "{profile: smoke, seeds: [1, 2]}",
    )
    last = Run(run.status, (run.output.strip().splitlines() or [""])[-1])  # papermill prints its own traceback
    return "one line" if run.status and "seeds" in last.output else f"exit {run.status}: {last.output}"
