"""What real vLLM published, through real sockets, against what the same vLLM answered."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.truth import Truth
from service.events.recording import Recording
from service.index.base import Rank
from tests.service.events.conftest import Listen, Listening
from tests.service.events.proxy import Proxy, Weather
from tests.service.playback import Played, playing
from tests.waiting import until

RECORDINGS = {
    "a_simple": "a_simple",
    "b3_copy_left": "b3_copy_left",
    "c_lora_salt": "c_lora_salt",
    "d_bytes": "d_bytes",
    "d_bytes_xxhash_cbor": "d_bytes_xxhash_cbor",
    "d_int": "d_int",
    "e_array_0.9.2": "a_simple",
    "e_array_0.11.2": "a_simple",
    "e_array_0.18.1": "a_simple",
    "e_array_0.22.1": "a_simple",
    "e_array_0.22.1_lora_salt": "c_lora_salt",
    "f_steps": "f_steps",
    "g_dp": "g_dp",
    "h_block_sizes": "h_block_sizes",
    "h_mamba": "h_mamba",
    "h_mamba_lora_salt": "h_mamba_lora_salt",
    "h_two_windows": "h_two_windows",
    "h_window": "h_window",
    "h_window_alone": "h_window_alone",
    "i_lookahead": "i_lookahead",
}
GUESSED = {"f_steps", "h_window"}
"""Those in which a report of reuse cannot be told from a copy for certain."""
STORMY = Weather(loses=0.2, repeats=0.2, delays=0.1)


def playback_of(path: Path, *, replay: bool) -> AbstractAsyncContextManager[Played]:
    with path.open("rb") as lines:
        return playing(list(Recording(lines)), replay=replay)


def wrong_ranks(listening: Listening, truth: Truth) -> set[Rank]:
    return {difference.rank for difference in truth.differences(listening.index)}


@pytest.mark.parametrize("name", RECORDINGS)
async def test_what_the_index_answers_is_what_vllm_would_reuse(listen: Listen, recordings: Path, name: str) -> None:
    truth = Truth.read(recordings / f"{RECORDINGS[name]}.truth.json")
    async with playback_of(recordings / f"{name}.jsonl", replay=False) as playback:
        listening = await listen(*playback.endpoints)
        await playback.play()
        await listening.heard(truth.last_sequence)
    assert list(truth.differences(listening.index)) == []
    assert listening.index.disagreements() == []
    if name not in GUESSED:
        assert [state.inexact_reason for state in listening.pool.streams() if not state.exact and state.connected] == []


@pytest.mark.parametrize("name", RECORDINGS)
async def test_with_a_replay_socket_the_answers_are_the_same_over_a_network_that_loses_and_repeats(
    listen: Listen, recordings: Path, name: str
) -> None:
    truth = Truth.read(recordings / f"{RECORDINGS[name]}.truth.json")
    async with AsyncExitStack() as stack:
        playback = await stack.enter_async_context(playback_of(recordings / f"{name}.jsonl", replay=True))
        listening = await listen_in_a_storm(stack, playback, listen)
        await playback.play()
        await listening.heard(truth.last_sequence)
        assert list(truth.differences(listening.index)) == []
        if name not in GUESSED:
            await until(lambda: all(state.exact for state in listening.pool.streams()))


@pytest.mark.parametrize("name", RECORDINGS)
async def test_without_one_every_rank_whose_answers_differ_is_inexact(
    listen: Listen, recordings: Path, name: str
) -> None:
    truth = Truth.read(recordings / f"{RECORDINGS[name]}.truth.json")
    async with AsyncExitStack() as stack:
        playback = await stack.enter_async_context(playback_of(recordings / f"{name}.jsonl", replay=False))
        listening = await listen_in_a_storm(stack, playback, listen)
        await playback.play()
        last = playback.last_messages()

        def heard_last() -> bool:
            # A loss that nothing follows cannot be seen, so the last batch of each stream is sent until it comes.
            for key, message in last.items():
                playback.publishers[key].publish(message.payload, sequence=message.sequence)
            return {rank: state.last_sequence for rank, state in listening.states().items()} == truth.last_sequence

        await until(heard_last)
        inexact = {state.rank for state in listening.pool.streams() if not state.exact}
    assert wrong_ranks(listening, truth) <= inexact


async def listen_in_a_storm(stack: AsyncExitStack, playback: Played, listen: Listen) -> Listening:
    """Listens to each publisher of the playback through a bad network."""
    proxies = [
        await stack.enter_async_context(Proxy(endpoint.address, STORMY, seed))
        for seed, endpoint in enumerate(playback.endpoints)
    ]
    endpoints = zip(playback.endpoints, proxies, strict=True)
    listening = await listen(*(replace(endpoint, address=proxy.address) for endpoint, proxy in endpoints))
    for proxy in proxies:
        await proxy.subscribed()
    return listening
