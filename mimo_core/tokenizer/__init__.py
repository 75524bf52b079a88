"""Text and placeholders to token ids, and back: by bytes, or by a Hugging Face tokenizer."""

from mimo_core.tokenizer.build import make_tokenizer
from mimo_core.tokenizer.tokenizer import Tokenizer, Vocabulary

__all__ = ["Tokenizer", "Vocabulary", "make_tokenizer"]
