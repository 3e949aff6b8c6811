from __future__ import annotations

import pytest

from service.contract.pods import parse_pods, pod_entry
from service.fleet.registry import Learned, Registry, ServedModel


def registry(*listed: tuple[ServedModel, ...]) -> Registry:
    """A registry of one pod for each list of models."""
    pods = Registry()
    for number, models in enumerate(listed):
        pods.add(parse_pods(f"http://127.0.0.{number + 1}:8000")[0]).learned = Learned(models)
    return pods


def test_a_lora_that_a_pod_lists_has_a_base_model_and_is_not_served_as_a_model() -> None:
    pods = registry((ServedModel("m"), ServedModel("sql", parent="m")))
    assert [pods.base_of(name) for name in ("m", "sql", "nobody")] == ["m", "m", None]
    assert [pods.serves(name) for name in ("m", "sql", "nobody")] == [True, False, False]


def test_the_name_of_a_model_wins_over_another_pod_s_lora_of_that_name() -> None:
    pods = registry((ServedModel("m"), ServedModel("sql", parent="m")), (ServedModel("sql"),))
    assert (pods.base_of("sql"), pods.serves("sql")) == ("sql", True)


def test_the_only_model_that_pods_list_is_that_of_requests_that_name_none() -> None:
    pods = Registry()
    assert pods.default_model("org/configured") == "org/configured"
    first = pods.add(parse_pods("http://10.0.0.7:8000")[0])
    assert pods.default_model("org/configured") == "org/configured", "its models are not known yet"
    adapter = ServedModel("adapter", parent="served")
    first.learned = Learned((ServedModel("served", root="org/model"), ServedModel("alias", root="org/model"), adapter))
    assert pods.default_model("org/configured") == "served"
    assert pods.default_model("alias") == "alias"
    second = pods.add(parse_pods("http://10.0.0.8:8000")[0])
    second.learned = Learned((ServedModel("other", root="org/other"),))
    assert pods.default_model("org/configured") == "org/configured", "neither of two is meant"


def test_a_model_that_pods_loaded_from_different_folders_is_one_model() -> None:
    pods = registry((ServedModel("served", root="/models/a"),), (ServedModel("served", root="/srv/a"),))
    assert pods.default_model("org/configured") == pods.meant_model("org/configured") == "served"


def test_of_several_models_a_request_without_one_means_the_configured_model_if_pods_list_it() -> None:
    pods = registry((ServedModel("a"),), (ServedModel("b"),))
    assert pods.meant_model("b") == "b"
    assert pods.meant_model("org/configured") is None, "any pod may take it"


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000/", "http://localhost:8000", "http://LOCALHOST:8000/v1"])
def test_a_server_is_one_pod_however_its_url_is_written(url: str) -> None:
    pods = Registry()
    pods.add(pod_entry("http://127.0.0.1:8000", {"name": "first"}))
    with pytest.raises(ValueError, match="the pod first has the URL"):
        pods.add(pod_entry(url, {"name": "second"}))
    with pytest.raises(ValueError, match="two pods have the URL"):
        parse_pods(f"http://127.0.0.1:8000,name=first,{url},name=second")
