"""Text to token ids and back, as the engine's tokenizer does it."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from tokenizers import Tokenizer

from service.index.base import TokenIds
from service.prompts.errors import PromptError
from service.prompts.model_files import BadModelFile, ModelFiles
from service.prompts.special_tokens import add_special_tokens


class TextTokenizer:
    """A tokenizer as transformers 5.23 sets up `TokenizersBackend`: without truncation or padding, all tokens known."""

    def __init__(self, files: ModelFiles) -> None:
        """Raises BadModelFile. Blocks for as long as it takes to read a vocabulary."""
        try:
            self._tokenizer = Tokenizer.from_file(str(files.tokenizer))
        except Exception as error:
            raise BadModelFile(files.tokenizer, error) from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        add_special_tokens(self._tokenizer, files.config, files.special_tokens)
        self._tokenizer.encode_special_tokens = bool(files.config.get("split_special_tokens", False))
        self.vocabulary_size: int = self._tokenizer.get_vocab_size()

    def encode(self, text: str, add_special_tokens: bool) -> TokenIds:
        """Gives the ids of a text."""
        return array("I", self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """Gives the text of tokens, special ones too; raises PromptError for a number that can be no token."""
        if any(not 0 <= token < 1 << 32 for token in tokens):
            raise PromptError("tokens must be whole numbers of 0 or more", "tokens")
        return self._tokenizer.decode(list(tokens), skip_special_tokens=False)

    def strings(self, tokens: Sequence[int]) -> list[str | None]:
        """Gives each token as the vocabulary spells it, None for an id that it lacks."""
        return [self._tokenizer.id_to_token(token) for token in tokens]

    def reach(self, text: str, tokens: TokenIds, count: int) -> int:
        """Gives the characters of the text from its start to the end of token `count`."""
        if count >= len(tokens):
            return len(text)
        for special in (False, True):
            encoding = self._tokenizer.encode(text, add_special_tokens=special)
            ids = array("I", encoding.ids)
            cut = len(ids) - len(tokens)
            if cut >= 0 and tokens in (ids[cut:], ids[: len(tokens)]):
                skipped = cut if tokens == ids[cut:] else 0
                return max((end for _, end in encoding.offsets[: skipped + count]), default=0)
        raise PromptError("the tokens are not those of the text", "tokens")
