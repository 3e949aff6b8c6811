from __future__ import annotations

from service.contract.pods import parse_pods
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
    assert pods.default_model("org/configured") == pods.only_model() == "served"
