from __future__ import annotations

from random import Random

import pytest

from service.routing.estimate import PrefillSamples, Speed, WholeAnswers


def learned(samples: list[tuple[int, float]]) -> Speed | None:
    found, now = PrefillSamples(), 0.0
    for tokens, seconds in samples:
        now += 10 + seconds
        found.add(tokens, seconds, now)
    return found.speed()


def test_overhead_and_speed_are_told_apart() -> None:
    speed = learned([(tokens, 0.02 + tokens / 10_000) for tokens in range(100, 6000, 200)])
    assert speed == pytest.approx(Speed(0.02, 1e-4), rel=0.01)


def test_outliers_do_not_count() -> None:
    random = Random(3)
    samples = [(tokens, 0.02 + tokens / 10_000) for tokens in (random.randrange(100, 8000) for _ in range(30))]
    for position in (3, 11, 19, 27):
        samples[position] = samples[position][0], 30.0
    speed = learned(samples)
    assert speed is not None
    assert speed.seconds_per_token == pytest.approx(1e-4, rel=0.1)
    assert speed.overhead < 0.06


def test_prompts_of_one_length_tell_only_the_speed() -> None:
    assert learned([(2000, 0.2), (2000, 0.2), (2100, 5.0), (2000, 0.2)]) == pytest.approx(Speed(0.0, 1e-4))


def test_a_few_short_prompts_tell_nothing() -> None:
    assert learned([(20, 0.03)] * 3) is None


def test_prompts_that_are_computed_in_one_step_are_one_sample() -> None:
    samples = PrefillSamples()
    samples.add(1000, 0.2, 10.0)
    samples.add(1000, 0.0001, 10.0001)
    assert samples.speed() == pytest.approx(Speed(0.0, 1e-4), rel=0.01)


def test_the_last_prompts_replace_earlier_ones() -> None:
    speed = learned([(4000, 0.4)] * 40 + [(4000, 0.8)] * 32)
    assert speed == pytest.approx(Speed(0.0, 2e-4))


def test_the_prefill_of_a_whole_answer_of_one_token_is_all_of_its_time() -> None:
    assert WholeAnswers().prefill(0.7, 1) == 0.7


def test_whole_answers_of_few_tokens_are_split_with_what_longer_ones_tell_of_decoding() -> None:
    answers, prefill, step = WholeAnswers(), 0.5, 0.02
    assert answers.prefill(prefill + 4 * step, 5) is None, "it may all be decoding"
    assert answers.prefill(prefill + 299 * step, 300) is None
    assert answers.prefill(prefill + 4 * step, 5) == pytest.approx(prefill, rel=0.02)
    assert answers.prefill(prefill + 99 * step, 100) is None, "an error of the step would be counted 99 times"
