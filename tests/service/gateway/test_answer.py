from __future__ import annotations

from service.gateway.answer import added_headers
from service.gateway.client_request import TokenOrigin
from service.routing.choice import Choice
from tests.service.routing.fleets import Fleet, held, text

PROMPT = text(1, 4096)


def predicted(choice: Choice) -> str | None:
    return dict(added_headers(choice, TokenOrigin("template"), names_rank=False)).get("X-Kvcache-Predicted-Tokens")


def test_only_a_prediction_that_events_confirm_is_told() -> None:
    fleet = Fleet(1)
    assert predicted(fleet.ask(PROMPT)) == "0"
    assert predicted(fleet.ask(PROMPT)) is None, "the first request is in flight"
    assert predicted(fleet.ask(PROMPT + text(2, 32), held(fleet.pods[0], 4096))) == "4096"
