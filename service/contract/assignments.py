"""Lists of assignments in settings: NAME=VALUE, separated by commas."""

from __future__ import annotations

RENDERERS = ("template", "harmony", "mistral", "engine")


def parse_assignments(text: str) -> tuple[tuple[str, str], ...]:
    """Reads `NAME=VALUE,NAME=VALUE`; a value may contain `=`. Raises ValueError that names the invalid part."""
    found: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not equals or not name or not value:
            raise ValueError(f"{part!r} must be NAME=VALUE")
        if name in found:
            raise ValueError(f"{name!r} is named twice")
        found[name] = value
    return tuple(found.items())


def parse_renderers(text: str) -> tuple[tuple[str, str], ...]:
    """Reads `MODEL=RENDERER,…`. Raises ValueError that names the invalid part."""
    found = parse_assignments(text)
    for model, renderer in found:
        if renderer not in RENDERERS:
            raise ValueError(f"the renderer of {model} must be one of {', '.join(RENDERERS)}, not {renderer!r}")
    return found


def parse_revisions(text: str) -> tuple[tuple[str, str], ...]:
    """Reads `REVISION`, which is that of the model "", or `MODEL=REVISION,…`. Raises ValueError for an invalid part."""
    if text.strip() and "=" not in text and "," not in text:
        return (("", text.strip()),)
    return parse_assignments(text)
