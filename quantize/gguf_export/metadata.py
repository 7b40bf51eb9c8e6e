"""What a GGUF file says about a decoder: llama.cpp's keys, from a config.json.

from_gguf reads the same keys. Where it reads something else than config.json says, llama.cpp would
compute something else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from spillover.models.gguf_header import GgufHeader, TensorInfo, Value
from spillover.quantize.onnx_export.blocks import Floats
from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.from_gguf.rotary import ALL, LONG, SHORT
from spillover.quantize.onnx_export.from_gguf.spec import read_spec
from spillover.quantize.onnx_export.from_hf.config import HfConfig
from spillover.quantize.onnx_export.from_hf.rotary import parameters
from spillover.quantize.onnx_export.rope import plain_frequencies
from spillover.quantize.onnx_export.spec import ModelSpec, Rotary

_RTOL = 1e-4


class Described:
    """A decoder in llama.cpp's words: *metadata*, and *divisors*, small tensors of its rotary
    positions. *notes* say what llama.cpp ignores. Raises ExportError for what it cannot compute."""

    def __init__(self, config: HfConfig, spec: ModelSpec) -> None:
        self.metadata: dict[str, Value] = {}
        self.divisors: dict[str, Floats] = {}
        self._name = spec.family.gguf
        self._add_shapes(spec)
        self._add_rotary(config, spec)
        self._add_family(config, spec)
        self.notes: tuple[str, ...] = self._check(spec)

    def _put(self, **values: Value | None) -> None:
        """Keys under the architecture's name; two underscores mean a dot. None: no key."""
        for key, value in values.items():
            if value is not None:
                self.metadata[f"{self._name}.{key.replace('__', '.')}"] = value

    def _add_shapes(self, spec: ModelSpec) -> None:
        self.metadata["general.architecture"] = self._name
        self._put(
            vocab_size=spec.n_vocab,
            context_length=spec.n_ctx,
            embedding_length=spec.n_hidden,
            block_count=len(spec.layers),
            feed_forward_length=spec.n_inner,
            attention__head_count=spec.n_head,
            attention__head_count_kv=spec.n_head_kv,
            attention__key_length=spec.n_per_head,
            attention__value_length=spec.n_per_head,
            attention__layer_norm_rms_epsilon=spec.norm_epsilon,
        )

    def _add_rotary(self, config: HfConfig, spec: ModelSpec) -> None:
        (theta, scaling), *_ = parameters(config)
        whole, theta = spec.rotaries[0], float(theta)
        self._put(
            rope__freq_base=theta,
            rope__dimension_count=2 * len(whole.frequencies),
        )
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        original = scaling.get("original_max_position_embeddings")
        original = config.original_max_position_embeddings or original
        plain = plain_frequencies(theta, 2 * len(whole.frequencies))
        if kind in ("linear", "yarn"):
            self._put(rope__scaling__type=kind, rope__scaling__factor=float(scaling["factor"]))
            known = (original, scaling.get("beta_fast"), scaling.get("beta_slow"))
            n_original, fast, slow = known if kind == "yarn" else (None, None, None)
            self._put(
                rope__scaling__original_context_length=int(n_original) if n_original else None,
                rope__scaling__yarn_beta_fast=float(fast) if fast else None,
                rope__scaling__yarn_beta_slow=float(slow) if slow else None,
            )
        elif whole.long_frequencies is not None:
            self._put(
                rope__scaling__type="longrope",  # or llama models would not have the tensors
                rope__scaling__original_context_length=whole.n_short,
                rope__scaling__attn_factor=whole.magnitude,
            )
            self.divisors[SHORT] = _divisors(plain, whole.frequencies)
            self.divisors[LONG] = _divisors(plain, whole.long_frequencies)
        elif not np.allclose(plain, whole.frequencies, rtol=_RTOL, atol=0):
            self.divisors[ALL] = _divisors(plain, whole.frequencies)

    def _add_family(self, config: HfConfig, spec: ModelSpec) -> None:
        windows = [layer.window for layer in spec.layers]
        pattern: list[Any] = [window is not None for window in windows]
        if config.model_type in ("gemma2", "gemma3_text"):
            local_theta, _ = parameters(config)[-1]
            self._put(
                attention__sliding_window=next(filter(None, windows), None),
                attention__sliding_window_pattern=pattern,
                rope__freq_base_swa=float(local_theta),
                attn_logit_softcapping=spec.attention_cap,
                final_logit_softcapping=spec.logit_cap,
            )
        if config.model_type == "phi3":
            self._put(attention__sliding_window=next(filter(None, windows), 0))
        if config.model_type == "granite":
            self._put(
                embedding_scale=spec.embedding_scale,
                attention__scale=spec.attention_scale,
                residual_scale=spec.residual_scale,
                logit_scale=1 / spec.logit_scale,
            )

    def _check(self, spec: ModelSpec) -> tuple[str, ...]:
        """What llama.cpp ignores. Raises ExportError for what would change every answer."""
        shape = (spec.n_hidden, spec.n_vocab)
        embedding = TensorInfo(name="token_embd.weight", shape=shape, type_id=0, offset=0)
        header = GgufHeader(
            version=3, metadata=self.metadata, tensors=(embedding,), file_size=0, data_offset=0
        )
        found = read_spec(header, rotary_divisors=self.divisors, is_tied=spec.is_tied)
        if any(
            (one.rotary is None) != (other.rotary is None)
            for one, other in zip(spec.layers, found.layers, strict=True)
        ):
            raise _not_expressible("which layers have rotary positions")
        if not _same_scale(spec, found):
            raise _not_expressible("the scale of the attention scores (query_pre_attn_scalar)")
        if (spec.attention_cap, spec.logit_cap) != (found.attention_cap, found.logit_cap):
            raise _not_expressible("that its scores or logits have no cap")
        if spec.architecture == "gemma2" and not spec.is_tied:
            raise _not_expressible("that the output head is another matrix than the embedding")
        if not all(map(_same_rotary, spec.rotaries, found.rotaries)):
            raise _not_expressible("the scaling of the rotary positions")
        windows = {
            one.window
            for one, other in zip(spec.layers, found.layers, strict=True)
            if one.window != other.window
        }
        return tuple(
            f"llama.cpp ignores the attention window of {window} tokens: longer contexts are "
            "computed in another way than the model was trained for"
            for window in sorted(filter(None, windows))
            if window < spec.n_ctx
        )


def _divisors(plain: npt.NDArray[np.float64], frequencies: tuple[float, ...]) -> Floats:
    return np.asarray(plain / np.asarray(frequencies), np.float32)


def _same_scale(one: ModelSpec, other: ModelSpec) -> bool:
    usual = one.n_per_head**-0.5
    wanted, found = one.attention_scale or usual, other.attention_scale or usual
    return bool(np.isclose(wanted, found, rtol=_RTOL))


def _same_rotary(one: Rotary, other: Rotary) -> bool:
    long = one.long_frequencies or one.frequencies, other.long_frequencies or other.frequencies
    return (
        np.allclose(one.frequencies, other.frequencies, rtol=_RTOL, atol=0)
        and np.allclose(*long, rtol=_RTOL, atol=0)
        and bool(np.isclose(one.magnitude, other.magnitude, rtol=_RTOL))
    )


def _not_expressible(what: str) -> ExportError:
    return ExportError(
        f"no key of a GGUF file says {what} of this model, and llama.cpp would compute something "
        "else: export it to ONNX"
    )
