"""Pods at the addresses of a DNS name, or of the targets of its SRV records."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from typing import Final, NamedTuple, TypeAlias

from dns.asyncresolver import Resolver
from dns.exception import DNSException
from dns.message import Message
from dns.nameserver import Do53Nameserver
from dns.rdatatype import RdataType
from dns.rdtypes.IN.SRV import SRV
from dns.resolver import NXDOMAIN, Answer, LifetimeTimeout, LRUCache, NoNameservers, NoResolverConfiguration

from service.contract.discovery import SourceEntry, address_and_port, name_and_port
from service.fleet.discovery.base import Found, Present, SourceFailed
from service.fleet.discovery.entries import entry_at

_INTERVAL = 1.0
_TIMEOUT: Final = 2.0
_MAX_QUESTIONS: Final = 32
_ADDRESSES: Final = (RdataType.A, RdataType.AAAA)

_Places: TypeAlias = set[tuple[str, int]]


class _Asked(NamedTuple):
    name: str
    kind: RdataType


class DnsPods:
    """The pods at the A and AAAA records of a name, with one port; or at the targets of SRV records.

    The name is asked every `interval` seconds, whatever the TTL of its records: between an answer and the server that
    gave it, nothing is cached here. Targets of SRV records that the answer has no addresses of are asked when their TTL
    ends. A name that does not exist has no pods.
    """

    def __init__(self, entry: SourceEntry, interval: float = _INTERVAL) -> None:
        self.name = str(entry)
        self._entry = entry
        self._interval = interval
        self._dns_name, self._port = name_and_port(entry.place)
        self._last: dict[_Asked, Answer | None] = {}
        """The last answer to every question, for when there is none; None for a name that does not exist."""

    async def watch(self) -> AsyncGenerator[Present, None]:
        asking = _Asking(self._entry.option("server"), self._last)  # which reads /etc/resolv.conf anew
        while True:
            asking.begin()
            if self._port is not None:
                places = {(address, self._port) for address in await asking.addresses(self._dns_name)}
            else:
                places = await self._targets(asking)
            yield Present(self._found(places), asking.end())
            await asyncio.sleep(self._interval)

    async def _targets(self, asking: _Asking) -> _Places:
        answer = await asking.ask(_Asked(self._dns_name, RdataType.SRV))
        if answer is None or answer.rrset is None:
            return set()
        targets = {
            (record.target.to_text(), record.port)
            for record in answer.rrset
            if isinstance(record, SRV) and record.target.to_text() != "."  # RFC 2782: no such service
        }
        names = {name for name, _ in targets}
        given = _additional(answer.response, names)
        asked = [name for name in names if name not in given]
        addresses = await asyncio.gather(*(asking.addresses(name, is_target=True) for name in asked))
        given |= dict(zip(asked, addresses, strict=True))
        return {(address, port) for name, port in targets for address in given[name]}

    def _found(self, places: Iterable[tuple[str, int]]) -> tuple[Found, ...]:
        events, replay = (self._entry.option(name) for name in ("events", "replay"))
        return tuple(
            Found(
                entry_at(
                    self._entry,
                    address,
                    port,
                    events=int(events) if events else None,
                    replay=int(replay) if replay else None,
                )
            )
            for address, port in sorted(places)
        )


class _Asking:
    """Asks questions, and takes the last answer to each where there is none now."""

    def __init__(self, server: str | None, last: dict[_Asked, Answer | None]) -> None:
        self._last = last
        self._fresh = _resolver(server)
        self._targets = _resolver(server)
        self._targets.cache = LRUCache()
        self._turns = asyncio.Semaphore(_MAX_QUESTIONS)
        self.begin()

    def begin(self) -> None:
        self._answered: set[_Asked] = set()
        self._has_answer, self._keeps_pods = False, False
        self._problems: dict[str, None] = {}

    def end(self) -> str | None:
        """The problem of some of the questions; None without one.

        Raises SourceFailed if none about the name itself was answered, or one that had records has none of today. A
        server that answers for IPv4 alone is no failure.
        """
        problem = "; ".join(self._problems) or None
        if problem is not None and (self._keeps_pods or not self._has_answer):
            raise SourceFailed(problem)
        for question in self._last.keys() - self._answered:
            if not self._problems:
                del self._last[question]
        return problem

    async def addresses(self, name: str, *, is_target: bool = False) -> list[str]:
        """The IPv4 and IPv6 addresses of a name; those of a target may be as old as their TTL."""
        resolver = self._targets if is_target else None
        answers = await asyncio.gather(*(self.ask(_Asked(name, kind), resolver) for kind in _ADDRESSES))
        return [record.to_text() for answer in answers if answer is not None for record in answer.rrset or ()]

    async def ask(self, question: _Asked, resolver: Resolver | None = None) -> Answer | None:
        """None for a name that does not exist, or was not known when it was last answered."""
        try:
            async with self._turns:
                answer = await (resolver or self._fresh).resolve(
                    question.name, question.kind, raise_on_no_answer=False, search=True, lifetime=_TIMEOUT
                )
        except NXDOMAIN:
            self._problems[f"{question.name} does not exist"] = None
            self._answered.add(question)
            self._has_answer |= resolver is None
            self._last[question] = None
            return None
        except (DNSException, OSError) as error:
            self._problems[f"{question.kind.name} of {question.name}: {_reason(error)}"] = None
            last = self._last.get(question)
            self._keeps_pods |= resolver is None and last is not None and last.rrset is not None
            return last
        self._answered.add(question)
        self._has_answer |= resolver is None
        self._last[question] = answer
        return answer


def _resolver(server: str | None) -> Resolver:
    """Raises SourceFailed if this machine names no server."""
    try:
        resolver = Resolver(configure=server is None)
    except (NoResolverConfiguration, OSError) as error:
        raise SourceFailed(f"/etc/resolv.conf names no DNS server: {error}") from None
    if server is not None:
        resolver.nameservers = [Do53Nameserver(*address_and_port(server))]
    return resolver


def _reason(error: Exception) -> str:
    """The same sentence for the same cause: the library's own has the time that passed."""
    match error:
        case LifetimeTimeout():
            return f"no answer within {_TIMEOUT:g} s"
        case NoNameservers():
            answers = {str(error) for _, _, _, error, _ in error.kwargs["errors"]}
            return f"no server answers it ({', '.join(sorted(answers))})"
    return str(error) or type(error).__name__


def _additional(response: Message, names: Iterable[str]) -> dict[str, list[str]]:
    """The addresses of names that an answer brought along."""
    found: dict[str, list[str]] = {}
    for rrset in response.additional:
        if rrset.rdtype in _ADDRESSES and rrset.name.to_text() in names:
            found.setdefault(rrset.name.to_text(), []).extend(record.to_text() for record in rrset)
    return found
