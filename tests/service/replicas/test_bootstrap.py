from __future__ import annotations

import asyncio
from pathlib import Path

from service.events.pool import EventPool
from service.index.memory import MemoryIndex
from service.replicas.bootstrap import Bootstrap
from service.unix_socket import unix_socket
from tests.waiting import PATIENCE, until


async def test_a_replica_that_is_not_ready_names_the_source_that_is_asked_now(folder: Path) -> None:
    def source() -> str:
        (reason,) = bootstrap.reasons()
        return reason.removeprefix("the index is being loaded from ").partition(": 0 blocks")[0]

    worker, sibling = folder / "worker", "http://127.0.0.1:1"
    index = MemoryIndex(1_000)
    pool = EventPool([], index, topic="kv@", default_model="m")
    await pool.start()
    bootstrap = Bootstrap(index, None, sibling=sibling, workers=[worker], seconds=PATIENCE)
    with unix_socket(worker) as listening:
        listening.setblocking(False)
        running = asyncio.create_task(bootstrap.run(pool))
        accepted, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(listening), PATIENCE)
    assert source() == "another worker"
    accepted.close()
    await until(lambda: source() == sibling)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await pool.close()
