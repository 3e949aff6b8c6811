from __future__ import annotations

from random import Random

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from service.prompts.tokens.segmentation import CutSizes, Segmentation, cut_rules_of, segmentation_of
from tests.service.prompts.tokenizers_of_all_kinds import KINDS, tokenizer_of

PROSE = "The cat sat on the mat and looked at the moon. " * 100


def cuts_of(segmentation: Segmentation, text: str) -> list[str]:
    return [text[start:end] for start, end, _ in segmentation.segments(text)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_segments_are_the_text(kind: str) -> None:
    segmentation = segmentation_of(cut_rules_of(tokenizer_of(kind)))
    assert segmentation is not None
    text = f"<s>{PROSE}</s><n> <r> [INST]"
    assert "".join(cuts_of(segmentation, text)) == text


def test_a_text_is_cut_at_added_tokens() -> None:
    segmentation = segmentation_of(cut_rules_of(tokenizer_of("gpt2")))
    assert segmentation is not None
    assert cuts_of(segmentation, "<s>one<|im_end|>two [INST]") == ["<s>", "one", "<|im_end|>", "two ", "[INST]"]


def test_a_token_that_strips_white_space_is_left_in_its_piece() -> None:
    segmentation = segmentation_of(cut_rules_of(tokenizer_of("tokens that strip")))
    assert segmentation is not None
    assert cuts_of(segmentation, "<s>one <l> two<r> three<s>four") == ["<s>", "one <l> two<r> three", "<s>", "four"]


@pytest.mark.parametrize(
    ("kind", "pieces"),
    [
        ("gpt2", 5),
        ("qwen", 5),
        ("o200k", 5),
        ("digits and punctuation", 5),
        ("metaspace first", 5),
        ("words", 5),
        ("metaspace in one piece", 1),
        ("an unknown pattern", 1),
        ("gpt2 with a space before the text", 1),
        ("llama 2", 1),
        ("bert", 1),
        ("tokens that strip", 1),
    ],
)
def test_long_prose_is_cut_between_words_where_the_pre_tokenizer_is_known_to(kind: str, pieces: int) -> None:
    segmentation = segmentation_of(cut_rules_of(tokenizer_of(kind)), CutSizes(piece=1024))
    assert segmentation is not None
    assert len(cuts_of(segmentation, PROSE)) == pieces


def test_a_tokenizer_that_draws_lots_is_not_cut() -> None:
    assert segmentation_of(cut_rules_of(Tokenizer(models.BPE(dropout=0.1)))) is None


def test_a_tokenizer_that_splits_special_tokens_is_not_cut() -> None:
    tokenizer = Tokenizer.from_str(tokenizer_of("gpt2").to_str())
    tokenizer.encode_special_tokens = True
    assert segmentation_of(cut_rules_of(tokenizer)) is None


def test_a_search_for_tokens_goes_on_past_a_token_at_the_border_of_its_window() -> None:
    segmentation = segmentation_of(cut_rules_of(tokenizer_of("gpt2")), CutSizes(window=4))
    assert segmentation is not None
    assert cuts_of(segmentation, "ab<|im_start|><|im_end|>cd<s>") == ["ab", "<|im_start|>", "<|im_end|>", "cd", "<s>"]


def test_long_text_without_spaces_is_cut_at_line_breaks_where_the_pre_tokenizer_is_known_to() -> None:
    text = "我们去市场买面包、奶酪和西红柿。\n" * 300
    for kind, pieces in (("gpt2", 5), ("qwen", 5), ("metaspace first", 1)):
        segmentation = segmentation_of(cut_rules_of(tokenizer_of(kind)), CutSizes(piece=1024))
        assert segmentation is not None
        assert len(cuts_of(segmentation, text)) == pieces


@pytest.mark.parametrize("kind", ["gpt2", "qwen", "o200k"])
def test_a_piece_is_cut_into_words_at_all_places_where_it_might_be_cut(kind: str) -> None:
    segmentation = segmentation_of(cut_rules_of(tokenizer_of(kind)))
    assert segmentation is not None and segmentation.words is not None
    words = segmentation.words.find('It costs 3 EUR,  "more"\u00a0or\n  less  .\n\n  4')
    assert words == ["It", " costs", " 3", " EUR, ", ' "more"\u00a0or\n ', " less ", " .\n\n  4"]


@pytest.mark.parametrize("kind", ["metaspace always", "words"])
def test_a_piece_is_cut_into_words_at_single_spaces_where_nothing_is_known_of_runs(kind: str) -> None:
    segmentation = segmentation_of(cut_rules_of(tokenizer_of(kind)))
    assert segmentation is not None and segmentation.words is not None
    words = segmentation.words.find('It costs 3 EUR,  "more"\u00a0or less  .')
    assert words == ["It", " costs", " 3", ' EUR,  "more"\u00a0or', " less  ."]


@pytest.mark.parametrize("kind", KINDS)
def test_words_tokenize_to_what_they_tokenize_to_together(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    segmentation = segmentation_of(cut_rules_of(tokenizer))
    if segmentation is None or segmentation.words is None:
        return
    random = Random(kind)
    parts = [*' \n\t\r5("{:.~/_aéяÅ한中。😀\u00a0\u0301', "  ", "\n\n", "'S", "The", "aB", "12", "):", "don't"]
    cut = 0
    while cut < 1000:
        text = "".join(random.choices(parts, k=random.randrange(2, 9)))
        words = segmentation.words.find(text)
        if len(words) > 1 and len(cuts_of(segmentation, text)) == 1:
            cut += 1
            apart = [number for word in words for number in tokenizer.encode(word, add_special_tokens=False).ids]
            assert tokenizer.encode(text, add_special_tokens=False).ids == apart, (text, words)


def test_a_piece_is_not_cut_into_words_where_it_matters_that_one_starts_the_text() -> None:
    segmentation = segmentation_of(cut_rules_of(tokenizer_of("metaspace first")))
    assert segmentation is not None
    assert segmentation.words is None


def test_words_are_kept_apart_by_a_token_that_no_other_reaches_into() -> None:
    segmentation = segmentation_of(cut_rules_of(tokenizer_of("tokens in tokens")))
    assert segmentation is not None and segmentation.words is not None
    assert segmentation.words.separator == "<a><a>"
    without = segmentation_of(cut_rules_of(_byte_level_with("ab", "bc", "ca")))
    assert without is not None
    assert without.words is None


def _byte_level_with(*contents: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([*contents])
    return tokenizer
