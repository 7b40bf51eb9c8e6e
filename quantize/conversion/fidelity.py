"""Whether a conversion is as true as its GGUF file: the same vocabulary, the same tokens, and
nearly the same logits as llama.cpp's."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from itertools import cycle, product

import numpy as np

from spillover.quantize.divergence import divergence
from spillover.quantize.sample_texts import ODD, PROSE, TO_TOKENIZE
from spillover.runtime.backend import Backend, Logits, Rows, Tokens, Vocabulary
from spillover.runtime.conversions.record import Fidelity, libraries

N_TOKENS = 320
"""Most tokens of the text for the divergence."""
_SLICES = (24, 1, 1, 8, 1, 4, 1, 1, 16, 1)
"""Tokens per call, in turns: both engines have other kernels for one row than for many."""
LONGEST_WINDOW = 1_024
"""Sliding windows up to so many positions are left behind by the text."""
N_BEYOND = 64
"""Tokens that are read then."""
_SLICE = 64
"""The same on the way there."""
_N_TOGETHER, _N_EACH, _N_STEPS = 4, 24, 3
"""Sequences in one call, whose kernels are others again, the tokens of each, and how many of those
follow one by one."""
_MOST = 1e6


def fidelity_of(llama: Backend, onnx: Backend, window: int = 0) -> Fidelity:
    """Compare both on built-in texts, one of which is longer than *window*. Both contexts must be
    empty, and are empty afterwards."""
    difference = vocabulary_difference(llama, onnx) or token_difference(
        llama, onnx, (*TO_TOKENIZE, *ODD)
    )
    if difference:
        return differs(difference)
    divergence, n_positions = logits_divergence(llama, onnx, window)
    return Fidelity(divergence=divergence, n_positions=n_positions, libraries=libraries())


def differs(difference: str) -> Fidelity:
    """That of a conversion which differs in something other than its logits."""
    return Fidelity(divergence=0.0, n_positions=0, difference=difference, libraries=libraries())


def vocabulary_difference(llama: Backend, onnx: Backend) -> str:
    """What the vocabularies disagree about; empty: nothing."""
    facts = {
        "the number of tokens": (llama.info.n_vocab, onnx.info.n_vocab),
        "the chat template": (llama.info.chat_template, onnx.info.chat_template),
        "the BOS token": (llama.info.bos_text, onnx.info.bos_text),
        "the EOS token": (llama.info.eos_text, onnx.info.eos_text),
        "whether texts begin with BOS": (llama.info.add_bos, onnx.info.add_bos),
        "the tokens for filling in the middle": (llama.info.fim, onnx.info.fim),
    }
    for what, (of_llama, of_onnx) in facts.items():
        if of_llama != of_onnx:
            return f"its tokenizer differs from llama.cpp's in {what}"
    for token in range(llama.info.n_vocab):
        if llama.is_eog(token) != onnx.is_eog(token):
            return f"its tokenizer and llama.cpp differ on whether token {token} ends an answer"
        if llama.token_bytes(token) != onnx.token_bytes(token):
            return f"its tokenizer and llama.cpp write token {token} in different ways"
        if llama.control_text(token) != onnx.control_text(token):
            return f"its tokenizer and llama.cpp name the control token {token} differently"
    return ""


def token_difference(llama: Backend, onnx: Vocabulary, texts: Sequence[str] = TO_TOKENIZE) -> str:
    """Which text the tokenizers cut differently; empty: none of these."""
    for text in (*texts, *_control_tokens(llama)):
        for special, parse in product((False, True), repeat=2):
            wanted = llama.tokenize(text, add_special=special, parse_special=parse)
            found = onnx.tokenize(text, add_special=special, parse_special=parse)
            if not np.array_equal(wanted, found):
                return f"its tokenizer cuts the text {text[:40]!r} in another way than llama.cpp"
    return ""


def _control_tokens(backend: Backend) -> tuple[str, ...]:
    """Texts with all of them: between words, and side by side."""
    found = {backend.control_text(token) for token in range(backend.info.n_vocab)}
    names = sorted(found - {""})[:200]
    return " a ".join(names), "".join(names), "\n".join(names)


def logits_divergence(llama: Backend, onnx: Backend, window: int = 0) -> tuple[float, int]:
    """The mean Kullback-Leibler divergence of *onnx* from *llama* in nats, and the number of
    positions. Where the text is longer than *window*, the larger mean: of what comes before or
    after."""
    n_most = min(N_TOKENS, llama.info.n_kv // 8, onnx.info.n_kv // 8)
    tokens = llama.tokenize(PROSE, add_special=True, parse_special=False)
    found, beyond = list[float](), list[float]()
    for rows in slices(tokens, n_most, window):
        part = beyond if end_of(rows) > max(n_most, window) else found
        part.extend(_divergences(llama, onnx, [rows]))
    _empty(llama, onnx, 1)
    found += _divergences_together(llama, onnx, tokens[:n_most])
    return max(_mean(part) for part in (found, beyond) if part), len(found) + len(beyond)


def _divergences_together(llama: Backend, onnx: Backend, tokens: Tokens) -> list[float]:
    """Those of several sequences that are read, and then continued, in the same calls."""
    n_seq = min(_N_TOGETHER, llama.info.n_seq, onnx.info.n_seq)
    n_read = min(n_seq * _N_EACH, llama.info.n_batch, onnx.info.n_batch)
    texts = [text for text in np.array_split(tokens[:n_read], n_seq) if len(text) > _N_STEPS]
    found: list[float] = []
    if len(texts) < 2:
        return found
    for step in range(_N_STEPS + 1):
        ends = [len(text) - _N_STEPS + step for text in texts]
        starts = [end - 1 if step else 0 for end in ends]
        rows = [
            Rows(seq, start, text[start:end], True)
            for seq, (text, start, end) in enumerate(zip(texts, starts, ends, strict=True))
        ]
        found += _divergences(llama, onnx, rows)
    _empty(llama, onnx, n_seq)
    return found


def _divergences(llama: Backend, onnx: Backend, rows: list[Rows]) -> list[float]:
    """Of the logits at the end of each of *rows*, which both read now."""
    for backend in (llama, onnx):
        backend.decode(rows)
    return [
        float(divergence(llama.logits(index)[None], onnx.logits(index)[None])[0])
        for index in range(len(rows))
    ]


def _empty(llama: Backend, onnx: Backend, n_seq: int) -> None:
    for backend in (llama, onnx):
        for seq in range(n_seq):
            backend.keep(seq, 0)


def sample(tokenizer: Vocabulary, n_kv: int) -> Tokens:
    """The beginning of a built-in text, for a context of *n_kv* tokens."""
    n_most = min(N_TOKENS, max(n_kv // 8, 1))
    return tokenizer.tokenize(PROSE, add_special=True, parse_special=False)[:n_most]


def read_slices(backend: Backend, tokens: Tokens) -> list[tuple[int, Logits]]:
    """Read *tokens* in slices; of each the end, and the logits (n_vocab,) there. The context must
    be empty, and is empty afterwards."""
    found: list[tuple[int, Logits]] = []
    for rows in slices(tokens, len(tokens)):
        backend.decode([rows])
        found.append((end_of(rows), backend.logits(0).copy()))
    backend.keep(0, 0)
    return found


def mean_divergence(pairs: Sequence[tuple[Logits, Logits]]) -> float:
    """The mean Kullback-Leibler divergence in nats of the second logits from the first, never
    negative; a large number where one is no number."""
    return _mean([divergence(wanted[None], logits[None])[0] for wanted, logits in pairs])


def _mean(divergences: Sequence[float]) -> float:
    mean = max(float(np.mean(divergences)), 0.0)  # NaN stays NaN
    return mean if np.isfinite(mean) else _MOST


def slices(tokens: Tokens, n_most: int, window: int = 0) -> Generator[Rows]:
    """What one call reads after the other: at most *n_most* of *tokens*, and, repeated, as many as
    lead beyond a window that is not too long."""
    n_read = 0
    for n in _sizes(min(n_most, len(tokens)), window):
        yield Rows(0, n_read, np.resize(tokens, n_read + n)[n_read:], True)
        n_read += n


def end_of(rows: Rows) -> int:
    """The position behind them."""
    return rows.start + len(rows.tokens)


def _sizes(n_tokens: int, window: int) -> Generator[int]:
    """Tokens per call."""
    n_read = yield from _mixed(n_tokens)
    if not n_tokens < window <= LONGEST_WINDOW:
        return
    while n_read < window:
        n = min(_SLICE, window - n_read)
        yield n
        n_read += n
    yield from _mixed(N_BEYOND)


def _mixed(n_tokens: int) -> Generator[int, None, int]:
    n_read = 0
    for n in cycle(_SLICES):
        n = min(n, n_tokens - n_read)
        if n == 0:
            break
        yield n
        n_read += n
    return n_read
