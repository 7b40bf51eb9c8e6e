"""The tokenizer of a model that reads whole texts, with all that its own settings add to them."""

from __future__ import annotations

import numpy as np
from tokenizers import Encoding

from spillover.models.onnx_folder import OnnxModelFiles
from spillover.runtime.backend import Tokens
from spillover.runtime.embedding.embedder import TokenizedInput
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.onnx.tokenizer import encoded, parse_tokenizer, read_tokenizer

_WORD_START = "\u2581"
_CONTINUED = "##"


class EncoderTokenizer:
    """Any thread may use it. Raises ModelError."""

    def __init__(self, files: OnnxModelFiles) -> None:
        content = read_tokenizer(files)
        self._plain = parse_tokenizer(content, files)
        # A text that spells out a special token must not become one.
        self._plain.encode_special_tokens = True
        self._parsing = parse_tokenizer(content, files)
        self.n_vocab: int = self._plain.get_vocab_size(with_added_tokens=True)

    def single(self, text: str, n_most: int | None) -> TokenizedInput:
        """*text* with what surrounds it, of at most *n_most* tokens."""
        encoding = encoded(self._plain, text)
        if n_most is not None:
            encoding.truncate(max(n_most - self._plain.num_special_tokens_to_add(False), 0))
        return _tokenized(self._plain.post_process(encoding, None, True))

    def pair(self, query: str, document: str, n_most: int | None) -> TokenizedInput:
        """A query and a document, which is cut if there are more than *n_most* tokens."""
        first, second = encoded(self._plain, query), encoded(self._plain, document)
        if n_most is not None:
            n_others = len(first.ids) + self._plain.num_special_tokens_to_add(True)
            if n_others >= n_most:
                message = f"the query takes {n_others} tokens: no document fits beside it"
                raise InvalidRequest(message, "query")
            second.truncate(n_most - n_others)
        return _tokenized(self._plain.post_process(first, second, True))

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> Tokens:
        tokenizer = self._parsing if parse_special else self._plain
        return np.array(encoded(tokenizer, text, add_special=add_special).ids, dtype=np.int32)

    def token_bytes(self, token: int) -> bytes:
        piece = self._plain.id_to_token(token)
        if piece is None or token in self._plain.get_added_tokens_decoder():
            return b""
        return piece.removeprefix(_CONTINUED).replace(_WORD_START, " ").encode()


def _tokenized(encoding: Encoding) -> TokenizedInput:
    return TokenizedInput(
        np.array(encoding.ids, dtype=np.int32), np.array(encoding.type_ids, dtype=np.int32)
    )
