"""Who may connect to the event sockets: keys of CURVE, addresses, and names of pods."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import zmq
import zmq.auth

from service.contract.endpoints import Endpoint, parse_endpoints
from service.events.curve import KeyPair, read_public, read_publics
from service.simulation.publisher import Publisher
from tests.service.events.batches import RANK, TOPIC, becomes_exact, held, stored
from tests.service.events.conftest import Listen, Listening
from tests.waiting import until


@dataclass(frozen=True)
class Keys:
    """The files of a key pair."""

    public: Path
    secret: Path

    @property
    def pair(self) -> KeyPair:
        return KeyPair.read(self.secret)


def keys(folder: Path, name: str) -> Keys:
    public, secret = zmq.auth.create_certificates(folder, name)
    return Keys(Path(public), Path(secret))


@pytest.fixture
def ours(tmp_path: Path) -> Keys:
    return keys(tmp_path, "service")


@pytest.fixture
def engine(tmp_path: Path) -> Keys:
    return keys(tmp_path, "engine")


@dataclass
class Sender:
    """A publisher of an engine that connects to us, with or without CURVE."""

    socket: zmq.Socket[bytes]
    sequence: int = 0

    def publish(self, number: int, topic: str = TOPIC) -> None:
        self.socket.send_multipart((topic.encode(), self.sequence.to_bytes(8, "big"), stored(number)))
        self.sequence += 1

    async def subscribed(self) -> None:
        await until(lambda: bool(self.socket.poll(0)))


class Senders:
    def __init__(self) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: list[zmq.Socket[bytes]] = []

    def connect(self, listening: Listening, own: Keys | None = None, service: Keys | None = None) -> Sender:
        socket = self._context.socket(zmq.XPUB)
        self._sockets.append(socket)
        socket.linger = 0
        if own is not None and service is not None:
            socket.curve_publickey, socket.curve_secretkey = own.pair
            socket.curve_serverkey = read_public(service.public)
        socket.connect(listening.pool.addresses()[0])
        return Sender(socket)

    def close(self) -> None:
        for socket in self._sockets:
            socket.close()
        self._context.term()


@pytest.fixture
def senders() -> Iterator[Senders]:
    made = Senders()
    yield made
    made.close()


def turned_away(listening: Listening) -> int:
    return listening.pool.statistics.peers_refused


async def test_an_engine_with_an_allowed_key_is_heard_and_another_key_is_turned_away(
    listen: Listen, senders: Senders, tmp_path: Path, ours: Keys, engine: Keys
) -> None:
    (tmp_path / "allowed").mkdir()
    shutil.copy(engine.public, tmp_path / "allowed")
    stranger = keys(tmp_path, "stranger")
    listening = await listen(Endpoint("tcp://127.0.0.1:*", curve=str(tmp_path / "allowed")), own_keys=ours.pair)
    senders.connect(listening, stranger, ours)
    await until(lambda: turned_away(listening) > 0)
    report = listening.pool.endpoints()[0]
    assert report.problem is not None and "127.0.0.1 (its key is not in curve=) may not connect" in report.problem
    sender = senders.connect(listening, engine, ours)
    await sender.subscribed()
    sender.publish(0)
    await until(lambda: RANK in listening.states() and held(listening) == {0})


async def test_a_key_that_is_added_to_the_folder_may_connect_without_a_restart(
    listen: Listen, senders: Senders, tmp_path: Path, ours: Keys, engine: Keys
) -> None:
    (tmp_path / "allowed").mkdir()
    listening = await listen(Endpoint("tcp://127.0.0.1:*", curve=str(tmp_path / "allowed")), own_keys=ours.pair)
    sender = senders.connect(listening, engine, ours)
    await until(lambda: turned_away(listening) > 0)
    shutil.copy(engine.public, tmp_path / "allowed")
    await sender.subscribed()


async def test_a_broken_file_in_the_folder_keeps_no_key_in_or_out(
    listen: Listen, senders: Senders, tmp_path: Path, ours: Keys, engine: Keys
) -> None:
    folder, stranger = tmp_path / "allowed", keys(tmp_path, "stranger")
    folder.mkdir()
    shutil.copy(stranger.public, folder / "former.key")
    (folder / "torn.key").write_text("ha")
    listening = await listen(Endpoint("tcp://127.0.0.1:*", curve=str(folder)), own_keys=ours.pair)
    await senders.connect(listening, stranger, ours).subscribed()
    (folder / "broken.key").write_text("half")
    shutil.move(folder / "former.key", tmp_path / "revoked")
    shutil.copy(engine.public, folder)
    await senders.connect(listening, engine, ours).subscribed()
    senders.connect(listening, stranger, ours)
    await until(lambda: "its key is not in curve=" in (listening.pool.endpoints()[0].problem or ""))


async def test_an_engine_without_encryption_is_not_heard_where_keys_are_needed(
    listen: Listen, senders: Senders, ours: Keys, engine: Keys
) -> None:
    listening = await listen(Endpoint("tcp://127.0.0.1:*", curve="*"), own_keys=ours.pair)
    plain, encrypted = senders.connect(listening), senders.connect(listening, engine, ours)
    await encrypted.subscribed()
    encrypted.publish(1)
    await until(lambda: RANK in listening.states() and held(listening) == {1})
    assert not plain.socket.poll(0)


async def test_an_address_that_is_not_allowed_is_turned_away_in_its_handshake(listen: Listen, senders: Senders) -> None:
    listening = await listen(Endpoint("tcp://127.0.0.1:*", peers="10.0.0.0/8+192.0.2.1"))
    senders.connect(listening)
    await until(lambda: turned_away(listening) > 0)
    assert listening.pool.endpoints()[0].problem is not None
    assert listening.states() == {}


async def test_an_address_that_is_allowed_is_heard(listen: Listen, senders: Senders) -> None:
    listening = await listen(Endpoint("tcp://*:*", peers="127.0.0.0/8+::1"))
    port = listening.pool.addresses()[0].rpartition(":")[2]
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
        socket.linger = 0
        socket.connect(f"tcp://127.0.0.1:{port}")
        sender = Sender(socket)
        await sender.subscribed()
        sender.publish(2)
        await until(lambda: RANK in listening.states() and held(listening) == {2})
    assert turned_away(listening) == 0


async def test_only_pods_of_the_list_are_believed(listen: Listen, senders: Senders) -> None:
    listening = await listen(Endpoint("tcp://127.0.0.1:*", pods="10.0.0.*+node-?:8000"))
    sender = senders.connect(listening)
    await sender.subscribed()
    sender.publish(1, "kv@192.0.2.9:8000@m")
    sender.publish(0)
    await until(lambda: RANK in listening.states() and held(listening) == {0})
    assert list(listening.states()) == [RANK]
    assert listening.pool.statistics.skipped == {"a pod that pods= leaves out": 1}


class CurvePublisher(Publisher):
    """An engine that binds, with CURVE on both of its sockets."""

    def __init__(self, own: Keys, **options: str) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        for socket in (self._pub, self._router):
            socket.curve_server = True
            socket.curve_publickey, socket.curve_secretkey = own.pair


async def test_an_encrypted_engine_is_heard_and_replays_to_us(listen: Listen, engine: Keys) -> None:
    async with CurvePublisher(engine, topic=TOPIC) as publisher:
        publisher.publish(stored(5), lost=True)
        address = Endpoint(publisher.address, replay=publisher.replay, curve=str(engine.public))
        listening = await listen(address)
        await publisher.subscribed()
        publisher.publish(stored(6))
        await until(lambda: RANK in listening.states() and held(listening) == {5, 6})
        await becomes_exact(listening)


@pytest.mark.parametrize("wrong", ["another key", "no key"])
async def test_a_handshake_that_fails_is_reported_with_the_remedy(
    listen: Listen, tmp_path: Path, engine: Keys, wrong: str
) -> None:
    other = str(keys(tmp_path, "other").public) if wrong == "another key" else None
    async with CurvePublisher(engine, topic=TOPIC) as publisher:
        listening = await listen(Endpoint(publisher.address, curve=other))
        await until(lambda: listening.pool.endpoints()[0].state == "rejected")
        assert "the handshake fails" in (listening.pool.endpoints()[0].problem or "")


async def test_a_key_that_is_corrected_ends_the_rejection(listen: Listen, tmp_path: Path, engine: Keys) -> None:
    file = keys(tmp_path, "other").public
    async with CurvePublisher(engine, topic=TOPIC) as publisher:
        listening = await listen(Endpoint(publisher.address, curve=str(file)), silence_interval=0.2)
        await until(lambda: listening.pool.endpoints()[0].state == "rejected")
        shutil.copy(engine.public, file)
        await until(lambda: listening.pool.endpoints()[0].state == "connected")


async def test_a_missing_file_or_key_is_a_problem_of_its_endpoint(listen: Listen, tmp_path: Path, ours: Keys) -> None:
    missing = str(tmp_path / "missing.key")
    for endpoint, own, said in (
        (Endpoint("tcp://127.0.0.1:5557", curve=missing), None, missing),
        (Endpoint("tcp://127.0.0.1:*", curve=missing), ours.pair, missing),
        (Endpoint("tcp://127.0.0.1:*", curve="*"), None, "needs ZMQ_CURVE_KEY"),
    ):
        listening = await listen(endpoint, own_keys=own)
        assert said in "".join(listening.pool.problems())


def test_keys_are_read_from_certificates_and_from_plain_files(tmp_path: Path, ours: Keys) -> None:
    public, secret = ours.pair
    (tmp_path / "plain").write_bytes(secret + b"\n")
    (tmp_path / "plain.pub").write_bytes(public)
    assert KeyPair.read(tmp_path / "plain") == ours.pair
    assert read_public(tmp_path / "plain.pub") == public == read_public(ours.public)
    assert read_publics(tmp_path, lambda error: pytest.fail(str(error))) == {public}
    (tmp_path / "nonsense").write_text("nonsense")
    with pytest.raises(ValueError, match="holds no CURVE key"):
        KeyPair.read(tmp_path / "nonsense")
    with pytest.raises(ValueError, match="holds no secret key"):
        KeyPair.read(ours.public)


@pytest.mark.parametrize(
    "text", ["tcp://a:1,peers=10.0.0.0/8", "ipc:///a,peers=10.0.0.1", "tcp://*:1,peers=10.0.0.0/8+host"]
)
def test_peers_are_networks_of_a_bound_address(text: str) -> None:
    with pytest.raises(ValueError, match="peers="):
        parse_endpoints(text)


@pytest.mark.parametrize("peers", ["127.0.0.0/8", "::ffff:127.0.0.0/104", "::ffff:7f00:1"])
def test_an_ipv4_address_is_allowed_however_ipv6_writes_it(peers: str) -> None:
    (endpoint,) = parse_endpoints(f"tcp://*:1,peers={peers}")
    assert endpoint.admits("127.0.0.1")
    assert endpoint.admits("::ffff:127.0.0.1")
    assert not endpoint.admits("128.0.0.1")
    assert not endpoint.admits("::1")


def test_an_ipv6_network_that_holds_the_mapped_addresses_allows_them() -> None:
    (endpoint,) = parse_endpoints("tcp://*:1,peers=::/0")
    assert endpoint.admits("::ffff:127.0.0.1")
    assert endpoint.admits("::1")
    assert not endpoint.admits("127.0.0.1")
