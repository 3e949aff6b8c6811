"""The state that the replicas of a fleet share: tables, channels and logs, and the list of replicas."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from secrets import token_hex
from time import time
from typing import Final, TypeAlias

import msgspec

from service.replicas.shared.base import FORMAT, Carrier, CarrierStatus
from service.replicas.shared.tables import Changed, Record, Tables

logger = logging.getLogger(__name__)

BEAT_SECONDS: Final = 1.0
MEMBER_SECONDS: Final = 4.0
"""A replica that says nothing for so long is gone, and its share of the load with it."""
_TICK_SECONDS: Final = 0.25
_MEMBERS: Final = "replicas"
_RECORDS: Final = ""
"""The channel of table changes."""

Heard: TypeAlias = Callable[[str, bytes], None]
"""Called with the name of the replica that tells something, and the message."""


class _Frame(msgspec.Struct, frozen=True, array_like=True):
    format: int
    sender: str
    channel: str
    message: bytes


class Member(msgspec.Struct, frozen=True):
    """A replica's own description. Other replicas reach it at `url`, which may be empty."""

    started: float
    """Unix seconds."""
    url: str = ""


_frames = msgspec.msgpack.Decoder(_Frame)
_records = msgspec.msgpack.Decoder(Record)
_members = msgspec.msgpack.Decoder(Member)
_encode = msgspec.msgpack.Encoder().encode


def _read(frame: bytes) -> _Frame:
    """Raises msgspec.DecodeError."""
    one = _frames.decode(frame)
    if one.format != FORMAT:
        raise msgspec.ValidationError(f"it has the format {one.format}, not {FORMAT}")
    return one


def replica_name() -> str:
    """A name that no other replica has, nor this one after a restart."""
    return f"{socket.gethostname()}-{token_hex(4)}"


class SharedState:
    """The state of a fleet as this replica knows it. Reading never waits; telling is in the background.

    - A *table* holds values by key, which every replica knows, also one that starts later: `put`, `remove`, `values`,
      `watch`. The last write wins. A value may expire; its writer then puts it again in good time.
    - A *channel* carries messages to the replicas that are there at the moment: `publish`, `subscribe`. A message comes
      at most once, and those of one replica in their order. Whoever publishes says all of its state again once per
      `BEAT_SECONDS` (`watch_beat`), so that a message that was lost matters for no longer.
    - A *log* is a bounded sequence of entries, which may be read from its beginning: `append`, `follow`, `unfollow`.
    - `members` are the other replicas that are alive; watch them with `watch_members`.
    """

    def __init__(
        self, carrier: Carrier, name: str | None = None, *, url: str = "", tables: Tables | None = None
    ) -> None:
        """`url` is where other replicas reach this one's HTTP."""
        self.name = name or replica_name()
        self.malformed = 0
        """Frames and kept values that were left out: of another version, or damaged."""
        self._carrier = carrier
        self._tables = tables or Tables()
        self._me = _encode(Member(time(), url))
        self._heard: dict[str, list[Heard]] = {}
        self._followers: dict[str, Callable[[bytes], None]] = {}
        self._beats: list[Callable[[], None]] = []
        self._beating: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._carrier.start(self)
        self._beating = asyncio.create_task(self._beat(), name="shared state")

    async def close(self) -> None:
        """Says that this replica is gone, and ends the connection."""
        if self._beating is not None:
            self._beating.cancel()
            with suppress(asyncio.CancelledError):
                await self._beating
        self.remove(_MEMBERS, self.name)
        await self._carrier.close()

    def status(self) -> CarrierStatus | None:
        return self._carrier.status()

    # Tables

    def put(self, table: str, key: str, value: bytes, seconds: float | None = None) -> None:
        self._write(table, key, value, seconds)

    def remove(self, table: str, key: str) -> None:
        self._write(table, key, None, None)

    def values(self, table: str) -> Mapping[str, bytes]:
        return self._tables.values(table)

    def watch(self, table: str, changed: Changed) -> None:
        """Calls with each value that is there, and with each change, this replica's own too."""
        self._tables.watch(table, changed)

    # Channels

    def publish(self, channel: str, message: bytes) -> None:
        self._carrier.send(_encode(_Frame(FORMAT, self.name, channel, message)))

    def subscribe(self, channel: str, heard: Heard) -> None:
        self._heard.setdefault(channel, []).append(heard)

    def watch_beat(self, beat: Callable[[], None]) -> None:
        """Calls every `BEAT_SECONDS`, and when the connection is there, or there again: say your state again."""
        self._beats.append(beat)

    # Logs

    def append(self, log: str, entry: bytes) -> None:
        self._carrier.append(log, entry)

    def follow(self, log: str, appended: Callable[[bytes], None]) -> None:
        self._followers[log] = appended
        self._carrier.follow(log)

    def unfollow(self, log: str) -> None:
        if self._followers.pop(log, None) is not None:
            self._carrier.unfollow(log)

    # Members

    @property
    def members(self) -> dict[str, Member]:
        """The other replicas that are alive, by name."""
        found = {}
        for name, value in self.values(_MEMBERS).items():
            if name != self.name:
                with suppress(msgspec.DecodeError):
                    found[name] = _members.decode(value)
        return found

    def watch_members(self, changed: Callable[[str, bool], None]) -> None:
        """Calls with the name of another replica, and True when it joins, False when it is gone."""
        present: set[str] = set()

        def told(name: str, value: bytes | None) -> None:
            is_there = value is not None
            if name == self.name or is_there == (name in present):
                return
            (present.add if is_there else present.discard)(name)
            changed(name, is_there)

        self.watch(_MEMBERS, told)

    # What the carrier brings

    def received(self, frame: bytes) -> None:
        try:
            one = _read(frame)
            if one.sender == self.name:
                return
            if one.channel == _RECORDS:
                self._merge(_records.decode(one.message))
            for heard in self._heard.get(one.channel, ()):
                heard(one.sender, one.message)
        except Exception as error:  # what one replica says must not end another one
            self._left_out(error)

    def linked(self, kept: Mapping[str, bytes]) -> None:
        """Takes what is kept, and tells what the others may have missed."""
        stored = set()
        for value in kept.values():
            try:
                record = _records.decode(value)
                self._tables.merge(record)
            except Exception as error:
                self._left_out(error)
                continue
            if self._tables.latest(record.name) == record:
                stored.add(record.name)
        for record in self._tables:
            if record.name not in stored and (record.seconds is None or record.value is None):
                self._tell(record)
        self._say_all()

    def appended(self, log: str, entry: bytes) -> None:
        follower = self._followers.get(log)
        if follower is not None:
            follower(entry)

    def _merge(self, record: Record) -> None:
        """Takes a record of another replica, or tells a later one, since the other has kept its own in place of it."""
        known = self._tables.latest(record.name)
        if not self._tables.merge(record) and known is not None and known != record:
            self._tell(known)

    def _write(self, table: str, key: str, value: bytes | None, seconds: float | None) -> None:
        self._tell(self._tables.write(table, key, value, self.name, seconds))

    def _tell(self, record: Record) -> None:
        encoded = _encode(record)
        self._carrier.keep(record.name, encoded, record.seconds)
        self.publish(_RECORDS, encoded)

    def _say_all(self) -> None:
        self.put(_MEMBERS, self.name, self._me, MEMBER_SECONDS)
        for beat in self._beats:
            beat()

    def _left_out(self, error: Exception) -> None:
        self.malformed += 1
        if self.malformed == 1:
            logger.warning("A message of another replica is ignored: %s", error)

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        beat_at = loop.time()
        while True:
            if loop.time() >= beat_at:
                beat_at = loop.time() + BEAT_SECONDS
                self._say_all()
            self._tables.expire()
            await asyncio.sleep(_TICK_SECONDS)
