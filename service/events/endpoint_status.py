"""The state of an endpoint, and a diagnosis when no events arrive."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from service.contract.endpoints import Endpoint

_MAX_TOPICS = 10
_TOPIC_LENGTH = 200


class EndpointState(StrEnum):
    """Progress of an endpoint from closed socket to received messages."""

    CLOSED = "closed"
    RESOLVING = "resolving"
    UNRESOLVED = "unresolved"
    CONNECTING = "connecting"
    REFUSED = "refused"
    """Connections to the address are refused."""
    REJECTED = "rejected"
    """The handshake fails: no publisher has the port, one side uses CURVE and the other does not, or a key is wrong."""
    LISTENING = "listening"
    """The address is bound, and no engine is connected."""
    CONNECTED = "connected"
    """Connected, but no message has arrived."""
    HEARD = "heard"


_PROBLEMS = {
    EndpointState.RESOLVING: "{address}: the lookup of its host name takes long; check the DNS of this machine",
    EndpointState.UNRESOLVED: "{address}: {unresolved}; correct the name, or the DNS of this machine",
    EndpointState.CONNECTING: "{address}: no answer; check the address, and that no firewall is in between",
    EndpointState.REFUSED: (
        "{address}: nobody accepts connections there; start the engine with KV events on, check the port, and see that "
        "its publisher binds (an endpoint with *); if it connects too, use an endpoint with * here"
    ),
    EndpointState.REJECTED: (
        "{address}: the handshake fails; check that this is the port of KV events, not of HTTP or replay; that curve= "
        "is the engine's public key, or left out if it does not use CURVE; and that the engine knows the public key of "
        "ZMQ_CURVE_KEY"
    ),
    EndpointState.LISTENING: (
        "{address}: no engine is connected; point the engine's publisher here (an endpoint without *), and see that "
        "the port can be reached from there"
    ),
    EndpointState.CONNECTED: (
        "{address}: connected, and no message came yet; an idle engine sends none: send it a request, and see that it "
        "has prefix caching and KV events on"
    ),
}
_UNHEARD_BOUND = (EndpointState.LISTENING, EndpointState.CONNECTED)
_TURNED_AWAY = "{address}: {turned_away} may not connect; correct peers= or curve=, or find out who it is"
_UNUSABLE = (
    "{address}: no message can be used ({unusable}); see that this is the port of the engine's KV events, and correct "
    "its topic, or pods= here"
)
_LEFT_OUT = (
    "{address}: its topics ({topics}) do not start with {prefix}; set ZMQ_TOPIC, set the engine's topic to "
    "kv@POD@MODEL, or name the pod at the endpoint (pod=)"
)


class EndpointStatus(msgspec.Struct):
    """Updated by the endpoint's subscription."""

    endpoint: Endpoint
    topic: str
    """The prefix that topics must have."""
    connections: set[int] = msgspec.field(default_factory=set)
    messages: int = 0
    last_message_at: float | None = None
    """Unix seconds."""
    closed: str | None = "is not opened yet"
    """Why the socket is not open."""
    resolving: bool = False
    unresolved: str | None = None
    refused: bool = False
    rejected: bool = False
    turned_away: str | None = None
    """The last peer that was not allowed to connect, and why."""
    speaks: bool = False
    """Whether messages have told of a rank."""
    unusable: str | None = None
    """Why the last message before that was of no use, and its topic."""
    topics_left_out: list[str] = msgspec.field(default_factory=list)
    """Topics that a probe received and that do not match the prefix."""

    @property
    def state(self) -> EndpointState:
        if self.closed is not None:
            return EndpointState.CLOSED
        if self.connections and not self.rejected:
            return EndpointState.HEARD if self.messages else EndpointState.CONNECTED
        return EndpointState.LISTENING if self.endpoint.binds else self._connecting

    @property
    def _connecting(self) -> EndpointState:
        if self.rejected:
            return EndpointState.REJECTED
        if self.unresolved is not None:
            return EndpointState.UNRESOLVED
        if self.refused:
            return EndpointState.REFUSED
        return EndpointState.RESOLVING if self.resolving else EndpointState.CONNECTING

    @property
    def problem(self) -> str | None:
        """Why no events arrive, and the remedy; None when they do."""
        if self.closed is not None:
            return self.closed
        template = _PROBLEMS.get(self.state)
        if self.state is EndpointState.CONNECTED and self.topics_left_out:
            template = _LEFT_OUT
        if self.unusable is not None and self.state in (EndpointState.CONNECTED, EndpointState.HEARD):
            template = _UNUSABLE
        if self.state in _UNHEARD_BOUND and self.endpoint.binds and self.turned_away is not None:
            template = _TURNED_AWAY
        if template is None:
            return None
        topics = ", ".join(repr(topic) for topic in self.topics_left_out)
        return template.format(
            address=self.endpoint.address,
            unresolved=self.unresolved,
            topics=topics,
            prefix=repr(self.topic),
            turned_away=self.turned_away,
            unusable=self.unusable,
        )

    def could_not_use(self, reason: str, topic: bytes | None = None) -> None:
        """Records a message that was of no use; it matters while no other was."""
        if not self.speaks:
            self.unusable = reason if topic is None else f"{reason}, topic {_text(topic)!r}"

    def has_spoken(self) -> None:
        """Records that a message has told of a rank."""
        self.speaks, self.unusable = True, None

    def left_out(self, topic: bytes) -> None:
        """Records a topic that does not match the prefix."""
        text = _text(topic)
        if text not in self.topics_left_out and len(self.topics_left_out) < _MAX_TOPICS:
            self.topics_left_out.append(text)


def _text(topic: bytes) -> str:
    return topic[:_TOPIC_LENGTH].decode(errors="backslashreplace")
