"""The ranks that can take a request, and the pods that cannot, as /select and /explain show them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from service.api.responses import Candidate, Foreseen, LeftOut
from service.fleet.registry import Pod
from service.gateway.retries import unavailable_reason
from service.routing.choice import Estimate, Router
from service.routing.question import Question


def foreseen(router: Router, fleet: Iterable[Pod], question: Question) -> Foreseen:
    """Where a request would go, without a reservation."""
    chosen, estimates = router.foreseen(question)
    return Foreseen(
        chosen=_candidate(chosen) if chosen is not None else None,
        candidates=candidates(estimates),
        left_out=left_out(fleet, (), question.model),
    )


def candidates(estimates: Iterable[Estimate]) -> list[Candidate]:
    """The candidates among ranks: those that can take the request."""
    return [_candidate(one) for one in estimates if unavailable_reason(one.pod) is None]


def _candidate(one: Estimate) -> Candidate:
    return Candidate(
        pod=one.pod.name,
        rank=one.rank,
        seconds=one.seconds,
        cost=one.cost,
        uncached_tokens=one.uncached,
        predicted_tokens=one.predicted,
        in_flight=one.requests,
    )


def left_out(fleet: Iterable[Pod], others: Sequence[Pod], model: str | None) -> list[LeftOut]:
    """The pods that are no candidates; `others` are those that the request does not want."""
    reasons = {
        pod.name: "not among `pods`"
        if pod in others
        else f"does not serve {model}"
        if not pod.serves(model)
        else unavailable_reason(pod)
        for pod in fleet
    }
    return [LeftOut(name, reason) for name, reason in reasons.items() if reason is not None]
