"""The documentation: its links, and the rooms and files that it names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGES = sorted(
    page
    for folder in (ROOT, ROOT / "docs", ROOT / "docs" / "decisions", ROOT / "deploy", ROOT / "tests" / "recordings")
    for page in folder.glob("*.md")
)
OWN_MODULES = [
    file.relative_to(ROOT).as_posix()
    for folder in ("orchestrator", "service", "scripts", "tests")
    for file in (ROOT / folder).rglob("*.py*")
]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> Iterator[str]:
    """Gives the anchors of a page's headings, as GitHub makes them."""
    for heading in re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def links(page: Path) -> Iterator[str]:
    """Gives the links of a page to files and headings, without those in code."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return (link for link in LINK.findall(prose) if not re.match(r"[a-z]+:", link))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file_and_heading_that_exist(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: there is no {target.relative_to(ROOT)}"
        assert not anchor or anchor in anchors(target), f"{link}: there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_module_that_a_page_names_exists(page: Path) -> None:
    named = set(re.findall(r"`([\w/.-]+\.pyx?)`", page.read_text(encoding="utf-8"))) - {"vllm/distributed/kv_events.py"}
    assert {name for name in named if not any(f"/{file}".endswith(f"/{name}") for file in OWN_MODULES)} == set()


def test_the_page_on_the_index_describes_every_file_of_it() -> None:
    described = set(re.findall(r"`(\w+\.py)`", (ROOT / "docs" / "index.md").read_text(encoding="utf-8")))
    assert {file.name for file in (ROOT / "service" / "index").glob("*.py")} - {"__init__.py"} <= described


def test_every_page_of_docs_is_listed_in_its_index() -> None:
    for folder in (ROOT / "docs", ROOT / "docs" / "decisions"):
        index = folder / "README.md"
        pages = {page.name for page in folder.glob("*.md")} - {index.name}
        assert pages <= set(links(index))


def test_the_architecture_describes_every_room_and_no_other() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    described = re.findall(r"^\| `((?:orchestrator|service)/[\w/]*)` \|", page.split("## Rooms")[1], re.MULTILINE)
    rooms = {
        f"{folder.parent.relative_to(ROOT)}/"
        for half in ("orchestrator", "service")
        for folder in (ROOT / half).rglob("__init__.py")
    }
    assert sorted(described) == sorted(rooms)
