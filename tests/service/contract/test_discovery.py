from __future__ import annotations

import pytest

from service.contract.discovery import (
    SourceEntry,
    address_and_port,
    name_and_port,
    namespace_and_selector,
    parse_discovery,
    reads_slices,
)


def test_several_sources_are_separated_by_commas_which_paths_may_have_too() -> None:
    assert parse_discovery("") == ()
    text = "file:/pods,of/a.yaml,file:b?c.yaml"
    found = parse_discovery(f"{text},file:b?c.yaml")
    assert found == (SourceEntry("file", "/pods,of/a.yaml"), SourceEntry("file", "b?c.yaml"))
    assert ",".join(map(str, found)) == text


def test_names_of_dns_have_options() -> None:
    text = "dns:vllm.llm:8000?scheme=https&key_file=/run/key&server=[::1]:5353,dns:_http._tcp.vllm"
    first, second = parse_discovery(text)
    assert ",".join(map(str, (first, second))) == text
    assert (name_and_port(first.place), name_and_port(second.place)) == (("vllm.llm", 8000), ("_http._tcp.vllm", None))
    assert (first.option("scheme"), second.option("scheme")) == ("https", None)
    assert address_and_port(first.option("server") or "") == ("::1", 5353)
    assert str(first.with_files({"/run/key": "/run/files/key"})).startswith(
        "dns:vllm.llm:8000?scheme=https&key_file=/run/files/key&"
    )


def test_selectors_of_kubernetes_may_have_commas_and_spaces() -> None:
    text = "kubernetes:llm/app=vllm,tier!=cpu?port=http,kubernetes:llm/kubernetes.io/service-name=vllm,file:a"
    pods, slices, _ = found = parse_discovery(text)
    assert ",".join(map(str, found)) == text
    assert namespace_and_selector(pods.place) == ("llm", "app=vllm,tier!=cpu")
    assert (reads_slices(pods), reads_slices(slices)) == (False, True)


def test_files_of_a_source_are_replaced_where_a_container_has_them_elsewhere() -> None:
    (source,) = parse_discovery("file:/pods.yaml")
    assert source.files == ("/pods.yaml",)
    assert str(source.with_files({"/pods.yaml": "/run/files/pods.yaml"})) == "file:/run/files/pods.yaml"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("/pods.yaml", "'/pods.yaml' must be containers, or begin with one of file:"),
        ("file:", "'' must name a file"),
        ("kubernetes:llm", "'llm' must be NAMESPACE/SELECTOR"),
        ("kubernetes:LLM/app=vllm", "must be NAMESPACE/SELECTOR"),
        ("kubernetes:llm/app=vllm?kind=services", "'services' must be pods or endpointslices"),
        ("kubernetes:llm/app=vllm?port=70000", "'70000' must be a port"),
        ("kubernetes:llm/app=vllm?port=Http", "'Http' must be the name or the number of a port"),
        ("dns:vllm", "'vllm' must be NAME:PORT"),
        ("dns:vllm:http", "'vllm:http' must be a port"),
        ("dns:_http._tcp.vllm:8000", "must be NAME:PORT, or _SERVICE"),
        ("dns:10.0.0.7/8:8000", "must be NAME:PORT"),
        ("dns:vllm:8000?colour=red", "'colour=red' must be one of scheme=…"),
        ("dns:vllm:8000?scheme=ftp", "'ftp' must be http or https"),
        ("dns:vllm:8000?server=nameserver", "'nameserver' must be ADDRESS"),
        ("dns:vllm:8000?model=a,b", "'a,b' must not have a comma"),
    ],
)
def test_an_invalid_source_is_named(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_discovery(text)


def test_containers_stand_alone_among_other_sources_and_have_a_file_for_the_service() -> None:
    found = parse_discovery("containers,file:a.yaml, containers:/run/pods.json")
    assert [(one.kind, one.place, str(one)) for one in found] == [
        ("containers", "", "containers"),
        ("file", "a.yaml", "file:a.yaml"),
        ("containers", "/run/pods.json", "containers:/run/pods.json"),
    ]
    assert found[0].files == ()
