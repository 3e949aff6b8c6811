"""A DNS server on 127.0.0.1, over UDP and TCP, whose answers a test changes."""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

_MAX_UDP = 512


class NameServer:
    """Answers from `records`; a name without any does not exist."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], list[str]] = {}
        """Texts of records by name, which ends with a dot, and type."""
        self.additional: dict[tuple[str, str], list[str]] = {}
        """Records that answers to SRV bring along."""
        self.ttl = 300
        self.rcode = dns.rcode.NOERROR
        self.is_silent = False
        self.silent_about: set[str] = set()
        """Types of records that it does not answer for."""
        self.asked: Counter[tuple[str, str]] = Counter()
        self.over_tcp = 0
        self.port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def answer(self, wire: bytes, limit: int | None = None) -> bytes | None:
        query = dns.message.from_wire(wire)
        (question,) = query.question
        name, kind = question.name.to_text(), dns.rdatatype.to_text(question.rdtype)
        self.asked[name, kind] += 1
        if self.is_silent or kind in self.silent_about:
            return None
        response = dns.message.make_response(query)
        response.set_rcode(self.rcode)
        if self.rcode == dns.rcode.NOERROR:
            if not any(name == known for known, _ in self.records):
                response.set_rcode(dns.rcode.NXDOMAIN)
            if records := self.records.get((name, kind)):
                response.answer.append(dns.rrset.from_text_list(name, self.ttl, "IN", kind, records))
            if kind == "SRV":
                for (other, of_kind), records in self.additional.items():
                    response.additional.append(dns.rrset.from_text_list(other, self.ttl, "IN", of_kind, records))
        whole = response.to_wire()
        if limit is None or len(whole) <= limit:
            return whole
        response.answer.clear()
        response.flags |= dns.flags.TC
        return response.to_wire()


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if (answer := self._server.answer(data, _MAX_UDP)) is not None:
            self._transport.sendto(answer, addr)


@asynccontextmanager
async def name_server() -> AsyncIterator[NameServer]:
    served = NameServer()

    async def over_tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            served.over_tcp += 1
            if (answer := served.answer(await reader.readexactly(length))) is not None:
                writer.write(struct.pack("!H", len(answer)) + answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    tcp = await asyncio.start_server(over_tcp, "127.0.0.1", 0)
    served.port = tcp.sockets[0].getsockname()[1]
    loop = asyncio.get_running_loop()
    udp, _ = await loop.create_datagram_endpoint(lambda: _Udp(served), ("127.0.0.1", served.port))
    try:
        yield served
    finally:
        udp.close()
        tcp.close()
        await tcp.wait_closed()
