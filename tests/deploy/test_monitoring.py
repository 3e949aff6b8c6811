"""The dashboard and the alerts of deploy/grafana/, with a real Prometheus."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.deploy.alert_cases import CASES, Case
from tests.deploy.monitored import Breakable, breakable_service, busy_service, concrete, scraped
from tests.service.conftest import port_of
from tests.tries import THOROUGH

FOLDER = ROOT / "deploy" / "grafana"
ALERTS = FOLDER / "alerts.yaml"
_CONDITION = re.compile(r"(?P<measured>.+) (?:<|>) [0-9.]+", re.DOTALL)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for ipc:// addresses."""
    with TemporaryDirectory(prefix="kv") as name:
        yield Path(name)


def alerts() -> dict[str, dict[str, Any]]:
    (group,) = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def measured(rule: dict[str, Any]) -> str:
    """The expression of an alert without its limit."""
    found = _CONDITION.fullmatch(rule["expr"])
    assert found, rule["expr"]
    return found["measured"]


def queries() -> list[str]:
    dashboard = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]


def checked(programs: Path, *arguments: str, text: str = "") -> str:
    """What promtool says."""
    command = [str(programs / "promtool"), *arguments]
    made = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    said = made.stdout + made.stderr
    assert made.returncode == 0, said
    return said


def test_promtool_accepts_the_rules(prometheus: Path) -> None:
    assert f"SUCCESS: {len(alerts())} rules found" in checked(prometheus, "check", "rules", str(ALERTS))


def test_promtool_accepts_the_configuration(prometheus: Path) -> None:
    config = ROOT / "deploy" / "prometheus.yaml"
    assert "SUCCESS" in checked(prometheus, "check", "config", "--syntax-only", str(config))


def test_every_alert_tells_its_severity_and_what_to_do() -> None:
    for name, rule in alerts().items():
        assert name.startswith("Kvcache")
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"].keys() == {"summary", "description"}


def test_every_alert_has_cases() -> None:
    assert set(CASES) == set(alerts())


@pytest.mark.parametrize(("name", "case"), CASES.items(), ids=CASES)
def test_an_alert_fires_and_falls_silent(name: str, case: Case, prometheus: Path, tmp_path: Path) -> None:
    def unit(series: dict[str, str], firing: bool) -> dict[str, Any]:
        labels = {"alertname": name, "alertstate": "firing", "severity": alerts()[name]["labels"]["severity"]}
        sample = ", ".join(f'{key}="{value}"' for key, value in {**labels, **case.labels}.items())
        return {
            "interval": "1m",
            "input_series": [{"series": one, "values": values} for one, values in series.items()],
            "promql_expr_test": [
                {
                    "expr": f'ALERTS{{alertname="{name}", alertstate="firing"}}',
                    "eval_time": "30m",
                    "exp_samples": [{"labels": f"ALERTS{{{sample}}}", "value": 1}] if firing else [],
                }
            ],
        }

    tests = {"rule_files": [str(ALERTS)], "tests": [unit(case.bad, True), unit(case.good, False)]}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests), encoding="utf-8")
    checked(prometheus, "test", "rules", str(tmp_path / "tests.yaml"))


async def test_every_query_finds_what_a_busy_service_tells(prometheus: Path, folder: Path) -> None:
    async with busy_service(folder) as client, scraped(folder, prometheus, port_of(client)) as server:
        await server.until_series([concrete(query) for query in queries()])
        await server.until_series([measured(rule) for rule in alerts().values()])
        await server.until_series(['ALERTS{alertname="KvcacheParityLost", alertstate="firing"}'])
        told = (await server.alerts())["KvcacheParityLost"]["annotations"]["summary"]
        assert told.startswith("Our tokens of builtin/demo differ from those of pod 127.0.0.1:")
        for alert in (await server.alerts()).values():
            assert "error expanding" not in alert["annotations"]["summary"]
        traces = await server.traces("kvcache_http_request_seconds_bucket")
        assert traces
        assert {len(trace) for trace in traces} == {32}
        async with client.get("/metrics") as answer:
            assert checked(prometheus, "check", "metrics", text=await answer.text()) == ""


FAILURES: tuple[tuple[Callable[[Breakable], Awaitable[None]], tuple[str, ...]], ...] = (
    (Breakable.fill_queue, ("KvcacheRequestsQueued",)),
    (Breakable.spoil_state, ("KvcacheSnapshotsFailing",)),
    (Breakable.break_replay, ("KvcacheReplayFailing", "KvcacheBatchesLost", "KvcachePodInexact")),
    (Breakable.end_events, ("KvcachePodDisconnected",)),
    (Breakable.add_other_tokens, ("KvcacheParityLost",)),
    (Breakable.spoil_pods_file, ("KvcacheDiscoveryFailing",)),
    (Breakable.kill_engine, ("KvcachePodUnavailable",)),
    (Breakable.kill_store, ("KvcacheSharedStateDown",)),
    (Breakable.hang, ("KvcacheDown",)),
)
"""What breaks a service, and the alerts that follow."""


@pytest.mark.skipif(not THOROUGH, reason="only with KVCACHE_THOROUGH")
async def test_the_conditions_of_alerts_hold_as_soon_as_a_service_goes_bad(prometheus: Path, folder: Path) -> None:
    conditions = {name: rule["expr"] for name, rule in alerts().items()}
    async with (
        breakable_service(folder) as service,
        scraped(folder, prometheus, service.metrics_port) as server,
    ):
        await server.until_series(
            ["kvcache_pod_exact == 1", "kvcache_shared_state_up == 1", "kvcache_discovery_up == 1"]
        )
        await server.until_none([conditions[name] for _, names in FAILURES for name in names])
        for fail, names in FAILURES:
            await fail(service)
            await server.until_series([conditions[name] for name in names])


def test_the_dashboard_is_the_one_that_its_script_makes(grafana: ModuleType) -> None:
    command = [sys.executable, "-m", "scripts.grafana_dashboard", "--check"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
