from __future__ import annotations

from pathlib import Path

import pytest

from service.events.recording import Recording
from service.simulation.playback import Playback
from service.simulation.truth import Truth
from tests.service.events.conftest import Listen

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
    "g_dp": "g_dp",
}


@pytest.mark.parametrize("name", RECORDINGS)
async def test_what_the_index_answers_is_what_vllm_would_reuse(listen: Listen, recordings: Path, name: str) -> None:
    truth = Truth.read(recordings / f"{RECORDINGS[name]}.truth.json")
    with (recordings / f"{name}.jsonl").open("rb") as lines:
        playback = Playback(Recording(lines))
    async with playback:
        listening = await listen(*playback.endpoints)
        await playback.play()
        await listening.heard(truth.last_sequence)
    assert list(truth.differences(listening.index)) == []
    assert all(state.exact for state in listening.pool.streams())
