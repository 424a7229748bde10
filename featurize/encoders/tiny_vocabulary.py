"""The vocabulary of the small text tokenizer: characters, common words of protein descriptions, and their endings."""

from functools import lru_cache
from importlib.resources import files


@lru_cache(maxsize=1)
def tiny_vocabulary() -> dict[str, int]:
    """WordPiece tokens and their numbers, in the order of `tiny_vocabulary.txt`; `##` marks the inside of a word.

    Every ASCII character is a token of its own, so English text never becomes [UNK].
    """
    text = (files("amma.featurize.encoders") / "tiny_vocabulary.txt").read_text(encoding="utf-8")
    return {token: index for index, token in enumerate(text.splitlines())}
