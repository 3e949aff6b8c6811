"""GET / and /ui: the page for browsers, as it is sent. tests/ui/ looks at it in a browser."""

from __future__ import annotations

import re
from pathlib import Path

from aiohttp import ClientSession

from service.contract.api_keys import parse_api_keys
from service.ui.files import page_files
from tests.service.conftest import Serve, url_of


async def test_the_root_leads_to_the_page(serve: Serve) -> None:
    client = await serve()
    async with client.get("/") as page:
        assert (page.status, str(page.url), page.content_type) == (200, f"{url_of(client)}/ui", "text/html")


async def test_the_page_needs_no_key_and_names_only_files_of_its_own(serve: Serve) -> None:
    client = await serve(api_keys=parse_api_keys("reader:read:sk-reading-0123456789"))
    async with client.get("/ui") as page:
        text = await page.text()
    named = re.findall(r'(?:src|href)="([^"#]+)"', text)
    assert len(named) > 4
    assert "style=" not in text and "<style" not in text and "onclick" not in text
    for name in named:
        async with client.get(f"/{name}") as file:
            assert file.status == 200, name
    async with client.get("/pods") as refused:
        assert refused.status == 401


async def test_every_file_may_load_nothing_from_elsewhere_and_run_nothing_inline(serve: Serve) -> None:
    client = await serve()
    for path in ("/ui", *(f"/ui/{name}" for name in page_files())):
        async with client.get(path) as file:
            policy = file.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
            assert file.headers["X-Content-Type-Options"] == "nosniff"


async def test_files_are_compressed_and_not_sent_again_if_they_have_not_changed(serve: Serve) -> None:
    client = await serve()
    async with ClientSession(url_of(client), auto_decompress=False) as raw, raw.get("/ui/page.css") as file:
        assert file.headers["Content-Encoding"] == "gzip"
        tag = file.headers["ETag"]
    async with client.get("/ui/page.css", headers={"If-None-Match": tag}) as again:
        assert (again.status, await again.read()) == (304, b"")
    async with client.get("/ui/page.css", headers={"Accept-Encoding": "identity"}) as plain:
        assert "Content-Encoding" not in plain.headers


async def test_other_files_are_404(serve: Serve) -> None:
    client = await serve()
    for path in ("/ui/secrets", "/ui/..%2f__init__.py", "/ui/files.py"):
        async with client.get(path) as missing:
            assert missing.status == 404


def test_no_script_makes_html_of_text() -> None:
    static = Path(__file__).resolve().parents[3] / "service" / "ui" / "static"
    scripts = list(static.glob("*.js"))
    assert scripts
    for script in scripts:
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|https?://(?!www\.w3\.org)",
            script.read_text(encoding="utf-8"),
        ), script.name
