"""Finds the engine of a recording that holds the longest prefix of a prompt, without a service."""

import json
from array import array
from pathlib import Path

from service.contract.tier_weights import TierWeights
from service.events.recording import Recording
from service.index.base import Prompt
from service.index.memory import MemoryIndex
from service.index.scoring import pod_scores
from service.offline.feed import Feed

MODEL = "ibm-granite/granite-3.3-2b-instruct"
recordings = Path("tests/recordings")

index = MemoryIndex(max_blocks=1_000_000)
feed = Feed(index, MODEL)
with (recordings / "c_lora_salt.jsonl").open("rb") as lines:
    for message in Recording(lines):
        feed.apply(message)

for held in index.ranks():
    print(held.rank.pod, "holds", sum(held.blocks_by_tier.values()), "blocks")

with (recordings / "c_lora_salt.requests.jsonl").open() as requests:
    tokens = array("I", json.loads(requests.readline())["tokens"])
matches = index.match(Prompt(MODEL, tokens))
for match in matches:
    print(match.rank.pod, "holds the first", match.tokens, "of", len(tokens), "tokens")
print("scores:", pod_scores(matches, TierWeights(), block_size=16))
