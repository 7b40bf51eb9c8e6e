"""Refuses graphs that cannot run here, and says what prevents it and what to do."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import ModelProto, NodeProto, TensorProto

from spillover.runtime.errors import ModelError
from spillover.runtime.onnx.graph.file import MAX_NODES, nodes_of
from spillover.runtime.onnx.graph.types import dtype_of

_OPERATORS = {
    "PagedAttention": "which runs on CUDA alone: export the model with GroupQueryAttention "
    "(the CPU build of onnxruntime-genai's model builder, or `spillover export onnx`)",
    "EPContext": "the compiled part of a build for one NPU: get the model's CPU build",
    "LinearAttention": "whose state cannot be cut back: hybrid models are not supported",
    "GatedDeltaNet": "whose state cannot be cut back: hybrid models are not supported",
    "CausalConvWithState": "whose state cannot be cut back: hybrid models are not supported",
    "MatMulNBitsMlp": "which no CPU runs: get the model's CPU build",
    "MatMulNBitsQkv": "which no CPU runs: get the model's CPU build",
    "BeamSearch": "a whole generation in one operator: export the decoder alone",
    "GreedySearch": "a whole generation in one operator: export the decoder alone",
    "Sampling": "a whole generation in one operator: export the decoder alone",
}
_INPUTS = {
    "encoder": "an encoder's output: encoder-decoder models are not supported",
    "inputs_embeds": "embeddings instead of tokens: it is a part of a multimodal model",
    "pixel": "images: multimodal models are not supported",
    "image": "images: multimodal models are not supported",
    "audio": "audio: multimodal models are not supported",
    "conv": "the state of a convolution: hybrid models are not supported",
    "recurrent": "a recurrent state: hybrid models are not supported",
    "ssm": "a recurrent state: hybrid models are not supported",
    "beam_idx": "the order of beams: export it as a plain decoder",
    "block_table": "a paged KV cache: export it for the CPU",
    "slot_mapping": "a paged KV cache: export it for the CPU",
}
_KNOWN_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"}


def refuse_operators(proto: ModelProto) -> None:
    """Raise ModelError when a node cannot run on any device that we use."""
    own = _KNOWN_DOMAINS | {function.domain for function in proto.functions}
    for number, node in enumerate(nodes_of(proto.graph)):
        if number >= MAX_NODES:
            raise ModelError(f"the graph has more than {MAX_NODES} nodes")
        if node.op_type in _OPERATORS:
            raise ModelError(f"the graph has {node.op_type}, {_OPERATORS[node.op_type]}")
        if node.domain not in own:
            raise ModelError(
                f"the graph has {node.op_type[:80]} of {node.domain[:80]!r}, which ONNX Runtime "
                "lacks without another library: export the model without it"
            )
        if node.op_type == "GroupQueryAttention":
            _refuse_window_cache(node)


def refuse_inputs(names: Iterable[str]) -> None:
    """Raise ModelError for inputs that this runtime cannot feed."""
    for name in names:
        for part, what in _INPUTS.items():
            if part in name.lower():
                raise ModelError(f"the graph's input {name[:80]!r} takes {what}")
        raise ModelError(
            f"the graph's input {name[:80]!r} is unknown: export the model with the inputs of "
            "optimum or onnxruntime-genai"
        )


def refuse_bfloat16(proto: ModelProto) -> None:
    """Raise ModelError for bfloat16, for which the CPU has no kernels."""
    names = {
        tensor.name
        for tensor in proto.graph.initializer
        if tensor.data_type == TensorProto.BFLOAT16
    }
    names |= {value.name for value in proto.graph.input if dtype_of(value) == "bfloat16"}
    if not names:
        return
    users = (node.op_type for node in nodes_of(proto.graph) if names & set(node.input))
    raise ModelError(
        f"the graph's {next(users, 'output')} computes in bfloat16, for which ONNX "
        "Runtime has no CPU kernel: export the model in fp32 or fp16, or run it on CUDA"
    )


def _refuse_window_cache(node: NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.name == "sliding_window_cache" and attribute.i:
            raise ModelError(
                "the graph's GroupQueryAttention keeps only a window of the KV cache "
                "(sliding_window_cache), which cannot be truncated: export it without"
            )
