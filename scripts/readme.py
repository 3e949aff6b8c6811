"""Writes the tables of README.md that say what the code says: the options of `kvcache up` and the service's settings.

python -m scripts.readme [--check]     --check: change nothing, exit code 1 when a table is out of date
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

import typer.main

from orchestrator.cli import app
from service.settings import describe

README = Path(__file__).resolve().parent.parent / "README.md"


def options() -> Iterable[tuple[str, str, str]]:
    """Gives (flags, variables, meaning) of each option of `kvcache up`."""
    for option in typer.main.get_group(app).commands["up"].params:
        flags = ", ".join(f"`{flag}`" for flag in (*option.opts, *option.secondary_opts))
        variables = option.envvar if isinstance(option.envvar, list) else [option.envvar]
        named = ", ".join(f"`{name}`" for name in variables if name)
        yield flags, named, " ".join((getattr(option, "help", "") or "").split())


def table(heads: tuple[str, str, str], rows: Iterable[tuple[str, str, str]]) -> str:
    """Gives rows as a markdown table."""
    lines = [" | ".join(heads), " | ".join(["---"] * len(heads)), *(" | ".join(row) for row in rows)]
    return "".join(f"| {line} |\n".replace("<", "\\<") for line in lines)


def written(text: str) -> str:
    """Gives the README with its tables as the code has them."""
    tables = {
        "options": table(("option of `kvcache up`", "environment", ""), options()),
        "settings": table(
            ("variable", "default", ""),
            ((f"`{name}`", f"`{default}`" if default else "", meaning) for name, default, meaning in describe()),
        ),
    }
    for name, content in tables.items():
        section = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text = section.sub(lambda match, content=content: match[1] + content + match[2], text)  # type: ignore[misc]
    return text


def main(arguments: list[str]) -> int:
    text = README.read_text(encoding="utf-8")
    if "--check" in arguments:
        return int(written(text) != text)
    README.write_text(written(text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
