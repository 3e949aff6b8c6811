"""Why nothing arrives: the state of each endpoint, and what it says to do."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import zmq

from service.contract.endpoints import Endpoint
from service.events.resolver import Resolver
from service.events.subscription import MAX_MESSAGE_BYTES
from service.index.base import Rank
from service.simulation.publisher import Publisher
from tests.service.events.batches import RANK, TOPIC, endpoint, held, stored
from tests.service.events.conftest import Listen, Listening
from tests.waiting import PATIENCE, reserved_port, until


async def becomes(listening: Listening, expected: str, remedy: str = "") -> None:
    await until(lambda: listening.pool.endpoints()[0].state == expected)
    problem = listening.pool.endpoints()[0].problem
    assert problem is None if not remedy else remedy in (problem or "")


async def test_an_endpoint_where_nobody_listens_is_refused(listen: Listen) -> None:
    with reserved_port() as port:
        listening = await listen(Endpoint(f"tcp://127.0.0.1:{port}"))
        await becomes(listening, "refused", "start the engine with KV events on")


async def test_more_endpoints_are_followed_than_libzmq_has_sockets_for_by_itself(listen: Listen) -> None:
    with reserved_port() as port:
        listening = await listen(*(Endpoint(f"tcp://127.0.{1 + n // 200}.{1 + n % 200}:{port}") for n in range(400)))
        await until(lambda: {report.state for report in listening.pool.endpoints()} == {"refused"})


async def test_two_sides_that_both_connect_are_refused_and_told_that_one_must_bind(listen: Listen) -> None:
    with reserved_port() as port:
        address = f"tcp://127.0.0.1:{port}"
        async with Publisher(address, None, topic=TOPIC, binds=False):
            listening = await listen(Endpoint(address))
            await becomes(listening, "refused", "if it connects too, use an endpoint with *")


async def test_a_port_of_something_else_is_rejected_and_then_refused_when_nobody_is_left(listen: Listen) -> None:
    def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    listening = await listen(Endpoint(f"tcp://127.0.0.1:{port}"))
    await becomes(listening, "rejected", "not of HTTP")
    server.close()
    await becomes(listening, "refused", "start the engine")
    assert listening.pool.endpoints()[0].connections == 0


async def test_an_engine_that_takes_the_port_of_another_kind_of_socket_is_heard(listen: Listen) -> None:
    with reserved_port() as port:
        address = f"tcp://127.0.0.1:{port}"
        with zmq.Context() as context, context.socket(zmq.ROUTER) as other:
            other.linger = 0
            other.bind(address)
            listening = await listen(Endpoint(address))
            await becomes(listening, "rejected", "or replay")
        async with Publisher(address, None, topic=TOPIC, binds=True) as publisher:
            await publisher.subscribed()
            publisher.publish(stored(0))
            await until(lambda: held(listening) == {0})


async def test_an_engine_is_heard_again_after_a_message_that_is_too_long(
    listen: Listen, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("service.events.subscription")
    logger.addHandler(caplog.handler)
    async with Publisher(topic=TOPIC) as publisher:
        listening = await listen(endpoint(publisher))
        await publisher.subscribed()
        publisher.publish(stored(0))
        await until(lambda: held(listening) == {0})
        publisher.publish_frames((TOPIC.encode(), (1).to_bytes(8, "big"), bytes(MAX_MESSAGE_BYTES + 1)))
        publisher.publish(stored(2), sequence=2)
        await until(lambda: held(listening) == {0, 2})
        await becomes(listening, "heard")
    assert "a message of more than 64 MiB" in caplog.text
    logger.removeHandler(caplog.handler)


async def test_an_address_that_no_engine_connects_to_is_listening(listen: Listen, folder: Path) -> None:
    listening = await listen(Endpoint(f"ipc://{folder}/events"))
    await becomes(listening, "listening", "point the engine's publisher here")


async def test_an_endpoint_is_connected_before_its_first_message_and_heard_after_it(listen: Listen) -> None:
    async with Publisher(topic=TOPIC) as publisher:
        listening = await listen(endpoint(publisher, replay=False))
        await publisher.subscribed()
        await becomes(listening, "connected", "an idle engine sends none")
        publisher.publish(stored(0))
        await becomes(listening, "heard")
        report = listening.pool.endpoints()[0]
        assert (report.messages, report.connections, list(report.pods)) == (1, 1, [RANK.pod])


async def test_a_topic_that_the_prefix_leaves_out_is_named(listen: Listen, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("service.events.pool")
    logger.addHandler(caplog.handler)
    async with Publisher(topic="other@a@m") as publisher:
        listening = await listen(endpoint(publisher, replay=False), silence_interval=0.05)
        await publisher.subscribed()

        def left_out() -> bool:
            publisher.publish(stored(0))
            return list(listening.pool.endpoints()[0].topics_left_out) == ["other@a@m"]

        await until(left_out)
        await becomes(listening, "connected", "its topics ('other@a@m') do not start with 'kv@'; set ZMQ_TOPIC")
        await until(lambda: "do not start with 'kv@'" in caplog.text)
        assert listening.states() == {}
    logger.removeHandler(caplog.handler)


@pytest.mark.parametrize(
    ("payload", "pods", "said"),
    [
        (stored(0), "192.0.2.*", "a pod that pods= leaves out, topic 'kv@10.0.0.1:8000@m'"),
        (b"\xc1", "*", "no msgpack"),
        (None, "*", "frames"),
    ],
)
async def test_messages_of_which_none_can_be_used_are_a_problem_until_one_can(
    listen: Listen, payload: bytes | None, pods: str, said: str
) -> None:
    async with Publisher(topic=TOPIC) as publisher:
        listening = await listen(endpoint(publisher, replay=False, pods=f"{pods}+node-1"))
        await publisher.subscribed()
        if payload is None:
            publisher.publish_frames([TOPIC.encode(), b"1"])
        else:
            publisher.publish(payload)
        await until(lambda: said in (listening.pool.endpoints()[0].problem or ""))
        publisher.topic = b"kv@node-1@m"
        publisher.publish(stored(1))
        await until(lambda: listening.pool.endpoints()[0].problem is None)


async def test_an_engine_is_inexact_as_not_heard_yet_before_its_first_message(listen: Listen) -> None:
    async with Publisher(topic=TOPIC) as publisher:
        listening = await listen(endpoint(publisher, replay=False, pod="a", model="m"))
        (report,) = listening.pool.unheard()
        assert (report.rank, report.exact, report.inexact_reason) == (Rank("a", "m"), False, "not heard yet")
        await publisher.subscribed()
        publisher.publish(stored(0))
        await until(lambda: not listening.pool.unheard())


class Names:
    """A resolver's table; names that are not in it hang until the test ends."""

    def __init__(self, **names: Sequence[str]) -> None:
        self.names = names
        self.asked: list[str] = []
        self.end = threading.Event()

    def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        if host in self.names:
            return self.names[host]
        if host.endswith(".invalid"):
            raise OSError("Name or service not known")
        self.end.wait()
        raise OSError("Temporary failure in name resolution")


async def test_names_whose_resolver_hangs_stop_nobody_s_events_and_not_the_end(listen: Listen) -> None:
    names = Names()
    try:
        async with Publisher(topic=TOPIC) as publisher:
            hanging = [
                Endpoint(f"tcp://pod-{number}:5557", replay=f"tcp://pod-{number}:5558", pod=f"p{number}")
                for number in range(60)
            ]
            listening = await listen(*hanging, endpoint(publisher), resolver=Resolver(names))
            await publisher.subscribed()
            publisher.publish(stored(0))
            publisher.publish(stored(1), lost=True)
            publisher.publish(stored(2))
            await until(lambda: held(listening) == {0, 1, 2})
            await until(lambda: len(names.asked) == 60)
            assert {report.state for report in listening.pool.endpoints()[:60]} == {"resolving"}
            await asyncio.wait_for(listening.pool.close(), PATIENCE)
    finally:
        names.end.set()


async def test_a_name_that_does_not_resolve_is_said_to(listen: Listen) -> None:
    listening = await listen(Endpoint("tcp://nobody.invalid:5557"), resolver=Resolver(Names()))
    await becomes(listening, "unresolved", "nobody.invalid cannot be resolved: Name or service not known")


async def test_of_a_name_s_addresses_the_one_that_accepts_is_taken(listen: Listen) -> None:
    async with Publisher(topic=TOPIC) as publisher:
        port = publisher.address.rpartition(":")[2]
        names = Names(engine=["::1", "127.0.0.1"])
        listening = await listen(Endpoint(f"tcp://engine:{port}"), resolver=Resolver(names))
        await publisher.subscribed()
        publisher.publish(stored(0))
        await until(lambda: held(listening) == {0})


async def test_the_replay_socket_of_a_name_is_asked(listen: Listen) -> None:
    async with Publisher(topic=TOPIC) as publisher:
        publisher.publish(stored(0), lost=True)
        replay = f"tcp://engine:{publisher.replay.rpartition(':')[2]}"
        resolver = Resolver(Names(engine=["127.0.0.1"]))
        listening = await listen(Endpoint(publisher.address, replay=replay), resolver=resolver)
        await until(lambda: held(listening) == {0})
