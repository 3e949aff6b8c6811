"""Events over IPv6: connected to, bound, and replayed."""

from __future__ import annotations

import pytest
import zmq

from service.contract.endpoints import Endpoint
from service.index.base import Rank
from tests.ipv6 import needs_ipv6
from tests.service.events.batches import stored
from tests.service.events.conftest import Listen, Listening
from tests.waiting import until

pytestmark = needs_ipv6


def publisher(context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
    sender = context.socket(zmq.XPUB)
    sender.linger = 0
    sender.ipv6 = True
    return sender


async def heard(listening: Listening, sender: zmq.Socket[bytes], pod: str) -> None:
    """Waits for the subscription, publishes a batch, and waits until it is applied."""
    await until(lambda: bool(sender.poll(0)))
    sender.send_multipart((f"kv@{pod}@m".encode(), bytes(8), stored(0)))
    await until(lambda: (found := listening.states().get(Rank(pod, "m"))) is not None and found.last_sequence == 0)


async def test_an_engine_at_an_ipv6_address_is_connected_to(listen: Listen) -> None:
    with zmq.Context() as context, publisher(context) as sender:
        sender.bind("tcp://[::1]:*")
        listening = await listen(Endpoint(sender.getsockopt_string(zmq.LAST_ENDPOINT)))
        await heard(listening, sender, "a")


@pytest.mark.parametrize("address", ["tcp://[::]:*", "tcp://*:*"])
async def test_engines_connect_over_ipv4_and_over_ipv6(listen: Listen, address: str) -> None:
    listening = await listen(Endpoint(address))
    port = listening.pool.addresses()[0].rpartition(":")[2]
    with zmq.Context() as context, publisher(context) as six, context.socket(zmq.XPUB) as four:
        four.linger = 0
        six.connect(f"tcp://[::1]:{port}")
        four.connect(f"tcp://127.0.0.1:{port}")
        await heard(listening, six, "six")
        await heard(listening, four, "four")


async def test_an_engine_without_a_name_that_connects_over_ipv4_is_called_by_its_ipv4_address(listen: Listen) -> None:
    listening = await listen(Endpoint("tcp://*:*"), topic="")
    port = listening.pool.addresses()[0].rpartition(":")[2]
    with zmq.Context() as context, context.socket(zmq.XPUB) as sender:
        sender.linger = 0
        sender.connect(f"tcp://127.0.0.1:{port}")
        await until(lambda: bool(sender.poll(0)))
        sender.send_multipart((b"", bytes(8), stored(0)))
        await until(lambda: Rank("127.0.0.1", "m") in listening.states())


async def test_a_replay_socket_at_an_ipv6_address_is_asked(listen: Listen) -> None:
    with zmq.Context() as context, publisher(context) as sender, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        router.ipv6 = True
        router.bind("tcp://[::1]:*")
        sender.bind("tcp://[::1]:*")
        replay = router.getsockopt_string(zmq.LAST_ENDPOINT)
        listening = await listen(Endpoint(sender.getsockopt_string(zmq.LAST_ENDPOINT), replay=replay))
        await until(lambda: bool(router.poll(0)))
        identity, *_ = router.recv_multipart()
        router.send_multipart((identity, b"", b"kv@a@m", bytes(8), stored(0)))
        await until(lambda: Rank("a", "m") in listening.states())
