"""The prefill speed of each rank, learned from times to first token.

A prefill of n uncached tokens takes `overhead + n * seconds_per_token`. Both numbers come from the last samples of the
rank, by medians, so that single outliers do not count (Tukey's resistant line, Exploratory Data Analysis, 1977).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Final, NamedTuple

_SAMPLES: Final = 32
_SAMPLE_SECONDS: Final = 300.0
_MIN_TOKENS: Final = 512
"""With fewer sampled tokens, the overhead of a request is most of its time, and a rank counts as the median rank."""
_MIN_FOR_LINE: Final = 9
_SAME_STEP: Final = 0.1
_MAX_DECODING: Final = 0.25


class Speed(NamedTuple):
    """Seconds that a prefill takes besides and per uncached token."""

    overhead: float
    seconds_per_token: float


DEFAULT: Final = Speed(0.0, 1e-4)
"""Before any rank is known. Only the comparison between ranks matters, and it tells nothing of seconds."""


class _Sample(NamedTuple):
    tokens: int
    seconds: float
    at: float


class PrefillSamples:
    """The last prefills of one rank; old ones expire, so that a rank that was slow once is tried again."""

    __slots__ = ("_samples",)

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque(maxlen=_SAMPLES)

    def add(self, tokens: int, seconds: float, now: float) -> None:
        """Adds a prefill that took so many seconds. One that ended with the previous one in a step is joined to it."""
        last = self._samples[-1] if self._samples else None
        if last is not None and seconds < _SAME_STEP * last.seconds and now - seconds <= last.at:
            self._samples[-1] = _Sample(last.tokens + tokens, last.seconds + seconds, now)
        else:
            self._samples.append(_Sample(tokens, seconds, now))

    def expire(self, now: float) -> bool:
        """Drops old samples; whether there were any."""
        before = len(self._samples)
        while self._samples and self._samples[0].at < now - _SAMPLE_SECONDS:
            self._samples.popleft()
        return len(self._samples) != before

    def speed(self) -> Speed | None:
        """The speed of the rank; None while too little is known."""
        samples = sorted(self._samples)
        if sum(sample.tokens for sample in samples) < _MIN_TOKENS:
            return None
        return _line(samples) or Speed(0.0, _weighted_median(samples))


class WholeAnswers:
    """Finds the prefill in the duration of answers that came whole, without a first token to be seen.

    A duration is that of the prefill, and of a step of decoding per further token. How long a step takes is not told;
    but it is at most the duration per token of every answer, so that the least of them bounds it. It is close for
    answers of many tokens, and times the few tokens of a short answer its error is small.
    """

    __slots__ = ("_steps",)

    def __init__(self) -> None:
        self._steps: deque[float] = deque(maxlen=_SAMPLES)

    def prefill(self, seconds: float, generated: int) -> float | None:
        """The seconds of prefill of an answer; None if decoding may be more than a quarter of its duration."""
        if generated <= 1:
            return seconds
        self._steps.append(seconds / (generated - 1))
        decoding = (generated - 1) * min(self._steps)
        return seconds - decoding if decoding <= _MAX_DECODING * seconds else None


def _line(samples: Sequence[_Sample]) -> Speed | None:
    """The resistant line through samples, sorted by tokens; None if their lengths are too similar."""
    third = len(samples) // 3
    if len(samples) < _MIN_FOR_LINE:
        return None
    low, high = samples[:third], samples[-third:]
    low_tokens, high_tokens = median(one.tokens for one in low), median(one.tokens for one in high)
    if high_tokens < 2 * low_tokens:
        return None
    slope = (median(one.seconds for one in high) - median(one.seconds for one in low)) / (high_tokens - low_tokens)
    if slope <= 0:
        return None
    return Speed(max(0.0, median(one.seconds - slope * one.tokens for one in samples)), slope)


def _weighted_median(samples: Iterable[_Sample]) -> float:
    """The median of seconds per token, each sample with the weight of its tokens."""
    ordered = sorted((sample.seconds / sample.tokens, sample.tokens) for sample in samples)
    half = sum(tokens for _, tokens in ordered) / 2
    for per_token, tokens in ordered:
        half -= tokens
        if half <= 0:
            return per_token
    raise ValueError("no samples")


def median_speed(speeds: Sequence[Speed]) -> Speed:
    """The speed that a rank has until it is known; DEFAULT itself without any speed."""
    if not speeds:
        return DEFAULT
    return Speed(median(speed.overhead for speed in speeds), median(speed.seconds_per_token for speed in speeds))
