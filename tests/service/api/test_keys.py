from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from aiohttp import ClientSession

from service.api.errors import ApiError
from service.api.keys import KeyRing
from service.contract.api_keys import parse_api_keys
from tests.service.conftest import Serve

READ, ROUTE, ADMIN = "sk-reading-0123456789", "sk-routing-0123456789", "sk-admin-0123456789"
KEYS = f"reader:read:{READ}, boss:admin+read:{ADMIN}"


async def status(client: ClientSession, method: str, path: str, key: str | None, body: str | None = None) -> int:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with client.request(method, path, headers=headers, data=body) as answer:
        if answer.status in (401, 403):
            error = (await answer.json())["error"]
            assert error["type"] in ("authentication_error", "permission_error")
            assert answer.status == 403 or answer.headers["WWW-Authenticate"] == "Bearer"
        return answer.status


async def test_requests_need_a_key_with_the_permission_of_their_endpoint(
    serve: Serve, subtests: pytest.Subtests
) -> None:
    client = await serve(api_keys=parse_api_keys(KEYS))
    for method, path, body, without, reading, admin in (
        ("GET", "/health", None, 200, 200, 200),
        ("POST", "/score", '{"prompt": [1]}', 401, 200, 200),
        ("GET", "/pods", None, 401, 200, 200),
        ("GET", "/metrics", None, 401, 200, 200),
        ("DELETE", "/pods/a:1", None, 401, 403, 404),
    ):
        with subtests.test(path):
            assert await status(client, method, path, None, body) == without
            assert await status(client, method, path, "sk-unknown-0123456789", body) == without
            assert await status(client, method, path, READ, body) == reading
            assert await status(client, method, path, ADMIN, body) == admin


async def test_clients_of_anthropic_and_clients_of_the_gateway_use_their_keys_as_they_are(serve: Serve) -> None:
    client = await serve(api_keys=parse_api_keys(f"{KEYS},router:route:{ROUTE}"))
    for key, listed, read in ((READ, 200, 200), (ROUTE, 200, 403), ("sk-unknown-0123456789", 401, 401)):
        for path, expected in (("/v1/models", listed), ("/pods", read)):
            async with client.get(path, headers={"X-Api-Key": key}) as response:
                assert response.status == expected, (key, path)


def test_keys_of_a_file_change_without_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# for the router\nreader:read:{READ}\n", encoding="utf-8")
    ring = KeyRing((), file, recheck_seconds=0)
    ring.check({"Authorization": f"Bearer {READ}"}, ("read",))
    with pytest.raises(ApiError):
        ring.check({"Authorization": f"Bearer {ADMIN}"}, ("admin",))
    file.write_text(f"boss:admin:{ADMIN}\n", encoding="utf-8")
    ring.check({"Authorization": f"bearer {ADMIN}"}, ("admin",))
    with pytest.raises(ApiError):
        ring.check({"Authorization": f"Bearer {READ}"}, ("read",))


def test_keys_of_a_file_that_was_replaced_by_one_of_the_same_size_and_date_change(tmp_path: Path) -> None:
    file, other = tmp_path / "keys", tmp_path / "other"
    file.write_text(f"a:read:{READ}\n", encoding="utf-8")
    ring = KeyRing((), file, recheck_seconds=0)
    other.write_text(f"a:read:{READ[::-1]}\n", encoding="utf-8")
    dates = file.stat()
    os.utime(other, ns=(dates.st_atime_ns, dates.st_mtime_ns))
    other.replace(file)
    with pytest.raises(ApiError):
        ring.check({"Authorization": f"Bearer {READ}"}, ("read",))


def test_a_broken_file_of_keys_leaves_the_former_keys_and_logs_no_key(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"reader:read:{READ}\n", encoding="utf-8")
    ring = KeyRing((), file, recheck_seconds=0)
    file.write_text(f"reader:write:{ADMIN}\n", encoding="utf-8")
    with caplog.at_level(logging.INFO):
        ring.check({"Authorization": f"Bearer {READ}"}, ("read",))
    assert "the former keys stay" in caplog.text
    assert ADMIN not in caplog.text


def test_a_file_of_keys_that_is_missing_for_a_while_is_told_once_and_leaves_the_former_keys(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"reader:read:{READ}\n", encoding="utf-8")
    ring = KeyRing((), file, recheck_seconds=0)
    file.unlink()
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            ring.check({"Authorization": f"Bearer {READ}"}, ("read",))
    assert caplog.text.count("the former keys stay") == 1
    file.write_text(f"root:admin:{ADMIN}\n", encoding="utf-8")
    ring.check({"Authorization": f"Bearer {ADMIN}"}, ("admin",))


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", f"Basic {READ}", READ, "Bearer \udcff" + "x" * 20])
def test_a_header_that_is_not_a_bearer_key_is_rejected(header: str | None) -> None:
    with pytest.raises(ApiError) as rejected:
        KeyRing(parse_api_keys(KEYS), None).check({} if header is None else {"Authorization": header}, ("read",))
    assert rejected.value.status == 401


@pytest.mark.parametrize(
    "text", ["a", "a:read", "a:read:short", f"a:write:{READ}", f"a b:read:{READ}", f"a:read:{READ},a:read:{ADMIN}"]
)
def test_an_invalid_entry_is_reported_without_its_key(text: str) -> None:
    with pytest.raises(ValueError) as reported:
        parse_api_keys(text)
    assert READ not in str(reported.value) and ADMIN not in str(reported.value)
