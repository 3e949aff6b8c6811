from __future__ import annotations

from random import Random

import pytest

from service.gateway.http import ProtocolError, ResponseParser, end_to_end, request_head

HEAD = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nx-a: 2\r\nContent-Type: text/event-stream\r\n"


def parsed(data: bytes, *, method: str = "POST", cuts: list[int] | None = None) -> tuple[ResponseParser, bytes]:
    """A parser that was fed the data in pieces, and the body that it gave."""
    parser = ResponseParser(method)
    ends = [*(cuts or []), len(data)]
    body = b"".join(parser.feed(data[start:end]) for start, end in zip([0, *ends], ends, strict=False))
    return parser, body


def test_a_response_is_the_same_wherever_it_is_cut() -> None:
    random = Random(1)
    chunks = [random.randbytes(random.choice((1, 2, 15, 300))) for _ in range(20)]
    framed = b"".join(b"%x;a=b\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    data = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\nTrailer: 1\r\n\r\n"
    for _ in range(300):
        cuts = sorted(random.sample(range(len(data)), random.randrange(1, 30)))
        parser, body = parsed(data, cuts=cuts)
        assert body == b"".join(chunks)
        assert parser.is_complete
        assert parser.keep_alive


def test_a_cut_chunk_of_an_event_stream_is_held_back() -> None:
    parser = ResponseParser("POST")
    assert parser.feed(HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n5\r\nde") == b"abc"
    assert parser.feed(b"fgh\r\n") == b"defgh"


def test_only_whole_chunks_can_pass_with_their_framing() -> None:
    parser = ResponseParser("POST")
    assert not parser.are_whole_chunks(b"3\r\nabc\r\n"), "before the head"
    parser.feed(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    assert parser.are_whole_chunks(b"3\r\nabc\r\n")
    assert parser.are_whole_chunks(b"3\r\nabc\r\n0A\r\n0123456789\r\n")
    for data in (
        b"3\r\nabc\r",
        b"3\r\nabcd\r\n",
        b"3\r\nabc\r\n2",
        b"3\r\nabc\r\n0\r\n\r\n",
        b"0\r\n\r\n",
        b"+3\r\nabc\r\n",
        b"3;a=b\r\nabc\r\n",
        b"3\nabc\r\n",
    ):
        assert not parser.are_whole_chunks(data), data
    parser.feed(b"3\r\na")
    assert not parser.are_whole_chunks(b"3\r\nabc\r\n"), "within a chunk"


def test_the_body_ends_with_its_length_or_with_the_connection() -> None:
    parser, body = parsed(HEAD + b"Content-Length: 3\r\n\r\nabc")
    assert (body, parser.is_complete, parser.keep_alive) == (b"abc", True, True)
    parser, body = parsed(HEAD + b"\r\nabc")
    assert (body, parser.is_complete) == (b"abc", False)
    parser.end()
    assert (parser.is_complete, parser.keep_alive) == (True, False)


def test_a_head_request_has_no_body_and_interim_responses_are_skipped() -> None:
    parser, body = parsed(b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"Content-Length: 3\r\n\r\n", method="HEAD")
    assert (body, parser.is_complete) == (b"", True)
    assert parser.head is not None
    assert (parser.head.status, parser.head.reason) == (200, "OK")
    assert parser.head.headers[:2] == [(b"X-A", b"1"), (b"x-a", b"2")]


@pytest.mark.parametrize("connection", [b"Connection: close\r\n", b"connection: x, Close\r\n"])
def test_a_connection_that_closes_is_not_kept(connection: bytes) -> None:
    parser, _ = parsed(HEAD + connection + b"Content-Length: 0\r\n\r\n")
    assert not parser.keep_alive


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA : 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: 1\nB: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: 1\rB: 2\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
        HEAD + b"Content-Length: 1\r\n\r\nab",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nx\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n+1\r\na\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1" * 300,
        b"a" * 70_000,
    ],
)
def test_what_is_not_http_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        parsed(data)


@pytest.mark.parametrize(
    "data", [b"", HEAD, HEAD + b"Content-Length: 3\r\n\r\nab", HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"]
)
def test_a_response_that_ends_too_early_is_refused(data: bytes) -> None:
    parser, _ = parsed(data)
    with pytest.raises(ProtocolError, match="ended within"):
        parser.end()


def test_headers_of_one_connection_are_not_passed_on() -> None:
    headers = [
        (b"Connection", b"keep-alive, X-Mine"),
        (b"x-mine", b"1"),
        (b"TE", b"trailers"),
        (b"A", b"1"),
        (b"a", b"2"),
    ]
    assert end_to_end(headers) == [(b"A", b"1"), (b"a", b"2")]


def test_a_request_head_has_the_headers_as_they_are() -> None:
    assert request_head("POST", "/a?b=%20", [(b"X-y", b"z")]) == b"POST /a?b=%20 HTTP/1.1\r\nX-y: z\r\n\r\n"
