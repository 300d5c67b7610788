"""PDFs, which Chromium prints from pages of HTML."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str:
    """The browser that $CHROMIUM names, or the system's; "" where there is none."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUM)), "")


def possible(what: str) -> bool:
    """Whether there is a Chromium; where there is none, it is said what is left out."""
    if chromium():
        return True
    print(f"{what} left out: no Chromium is installed (on Debian: apt install chromium)")
    return False


def print_page(page: Path, path: Path) -> None:
    """Print a page of HTML as a PDF, with bookmarks from its headings.

    The same Chromium prints the same bytes: the dates in them are those of nothing.

    Raises:
        ValueError: it was not printed; with the last line that Chromium said.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        words = [chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                 f"--user-data-dir={home}", "--allow-file-access-from-files", "--virtual-time-budget=600000",
                 "--generate-pdf-document-outline", "--no-pdf-header-footer", f"--print-to-pdf={path}", page.as_uri()]
        path.unlink(missing_ok=True)
        done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode or not path.is_file():
        raise ValueError(f"{path.name} was not printed: {(done.stderr.strip().splitlines() or ['no word why'])[-1]}")
    path.write_bytes(settled(path.read_bytes()))


def settled(data: bytes) -> bytes:
    """A PDF without what differs between two printings: its dates, and gaps in the numbers of its nodes."""
    data = re.sub(rb"(/(?:CreationDate|ModDate) \(D:)\d{14}", rb"\g<1>19800101000000", data)
    names = sorted(set(re.findall(rb"\(node\d{8}\)", data)))
    ranks = {name: b"(node%08d)" % rank for rank, name in enumerate(names)}
    return re.sub(rb"\(node\d{8}\)", lambda found: ranks[found[0]], data)


def places(path: Path) -> dict[str, int]:
    """The page, from one on, of each place in a printed PDF that a link leads to."""
    data = path.read_bytes()
    pages = [int(number) for number in re.findall(rb"(\d+) 0 obj\n<</Type /Page\n", data)]
    found = re.findall(rb"(?:/|<<)([^\s/<]+) \[(\d+) 0 R /XYZ", data)
    return {name.decode(): pages.index(int(page)) + 1 for name, page in found}
