"""What is read from event sockets, by libzmq's own functions and by those of pyzmq."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
import zmq

from service.events import messages
from service.events.messages import MALFORMED, Message, receive_from
from service.native import backend
from tests.waiting import PATIENCE

Receive = Callable[[], Message | None]


@pytest.fixture(
    params=[
        pytest.param(True, marks=pytest.mark.skipif(not backend.COMPILED, reason="the inner loops are not compiled")),
        False,
    ],
    ids=["libzmq", "pyzmq"],
)
def direct(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether messages are read by libzmq's own functions."""
    if not request.param:
        monkeypatch.setattr(messages, "_functions", lambda: None)
    return bool(request.param)


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield context
    context.destroy(linger=0)


class Pair:
    """A subscriber that is bound, and a publisher that connects to it."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], host: str = "127.0.0.1", *, ipv6: bool = False) -> None:
        self.socket = context.socket(zmq.SUB)
        self.socket.ipv6 = ipv6
        self.socket.subscribe(b"")
        port = self.socket.bind_to_random_port(f"tcp://{host}")
        self.publisher = context.socket(zmq.XPUB)
        self.publisher.connect(f"tcp://127.0.0.1:{port}")
        for _ in range(int(PATIENCE * 100)):
            self.socket.poll(0)  # a socket sends its subscriptions when it is used
            if self.publisher.poll(10):
                return
        raise TimeoutError("no subscription came")

    def close(self) -> None:
        self.socket.close()
        self.publisher.close()

    def received(self, receive: Receive) -> Message:
        assert self.socket.poll(int(PATIENCE * 1000))
        message = receive()
        assert message is not None
        return message


def test_messages_are_read_in_order_and_none_when_there_are_no_more(
    context: zmq.Context[zmq.Socket[bytes]], direct: bool
) -> None:
    with closing(Pair(context)) as pair:
        receive = receive_from(pair.socket, with_origin=False)
        assert receive() is None
        for sequence, payload in ((0, b""), (2**63 + 5, b"x" * 100_000)):
            pair.publisher.send_multipart((b"kv@a@m", sequence.to_bytes(8, "big"), payload))
            assert pair.received(receive) == Message(b"kv@a@m", sequence, payload)
        assert receive() is None


@pytest.mark.parametrize(
    "frames",
    [
        (b"kv@a@m",),
        (b"kv@a@m", bytes(8)),
        (b"kv@a@m", bytes(7), b"payload"),
        (b"kv@a@m", bytes(9), b"payload"),
        (b"kv@a@m", bytes(8), b"payload", b""),
        (b"kv@a@m", b"", b"payload", bytes(8), b"payload"),
    ],
    ids=len,
)
def test_other_frames_are_one_malformed_message(
    context: zmq.Context[zmq.Socket[bytes]], direct: bool, frames: tuple[bytes, ...]
) -> None:
    with closing(Pair(context)) as pair:
        receive = receive_from(pair.socket, with_origin=False)
        pair.publisher.send_multipart(frames)
        pair.publisher.send_multipart((b"kv@a@m", bytes(8), b"next"))
        assert pair.received(receive) is MALFORMED
        assert pair.received(receive).payload == b"next"


@pytest.mark.parametrize(("host", "ipv6"), [("127.0.0.1", False), ("*", True)])
def test_a_bound_socket_tells_where_messages_come_from(
    context: zmq.Context[zmq.Socket[bytes]], direct: bool, host: str, ipv6: bool
) -> None:
    with closing(Pair(context, host, ipv6=ipv6)) as pair:
        receive = receive_from(pair.socket, with_origin=True)
        pair.publisher.send_multipart((b"kv@a@m", bytes(8), b"payload"))
        pair.publisher.send_multipart((b"kv@a@m", bytes(8), b"payload"))
        first, second = pair.received(receive), pair.received(receive)
        assert first == second
        assert first.peer == "127.0.0.1"
        assert first.connection is not None
        assert first.connection > 0


def test_a_socket_that_fails_says_so(context: zmq.Context[zmq.Socket[bytes]], direct: bool) -> None:
    with closing(context.socket(zmq.PUB)) as socket:
        receive = receive_from(socket, with_origin=False)
        with pytest.raises(zmq.ZMQError, match="not supported"):
            receive()
