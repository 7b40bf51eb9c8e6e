"""Runs an ONNX decoder part by part, so that the weights of one part are held at a time."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
from msgspec import Struct
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from spillover.models import onnx_folder
from spillover.runtime.backend import Logits, Rows, Tokens
from spillover.runtime.machine.device import default_threads
from spillover.runtime.onnx.feeds import Feeds, feeds
from spillover.runtime.onnx.graph.edit import taken_by_node
from spillover.runtime.onnx.graph.prepare import prepare
from spillover.runtime.onnx.runners.execution import (
    FIRST_WITH_QUERY_LENGTHS,
    runtime_version,
)
from spillover.runtime.onnx.session import OnnxSession, session_options
from spillover.runtime.onnx.settings import read_settings
from spillover.runtime.onnx.tokenizer import OnnxTokenizer

_PART_BYTES = 64 << 20
"""Weights of a part, unless a single node has more."""


class _Part(Struct, frozen=True):
    nodes: list[NodeProto]
    gives: list[str]
    """What later parts need, or the caller."""
    later: set[str]
    """All that is needed after it."""


class OnnxParts:
    """The graph in a model's folder, as it serves on the CPU. Raises ModelError, ModelFileError."""

    def __init__(self, folder: Path) -> None:
        files = onnx_folder.find(folder)
        settings = read_settings(files)
        self.tokenizer = OnnxTokenizer(files, settings)
        version = runtime_version()
        self._graph = prepare(
            files.graph,
            runtime_version=version,
            query_lengths=version >= FIRST_WITH_QUERY_LENGTHS,
            n_ctx=settings.n_ctx_train,
        )

    @property
    def largest_bytes(self) -> int:
        """Of the weights of a part."""
        return max(_PART_BYTES, *map(_n_bytes, self._graph.proto.graph.initializer))

    def last_logits(self, calls: Sequence[Rows]) -> list[Logits]:
        """The logits (n_vocab,) at the end of each of *calls*, which read one sequence."""
        layout = self._graph.layout
        values = [feeds(layout.inputs, [rows.tokens], [rows.start]) for rows in calls]
        kinds: dict[str, type[np.generic]] = {}
        for part in _parts(self._graph.proto.graph):
            values = list(self._run(part, kinds, values))
        return [one[layout.logits].reshape(-1, one[layout.logits].shape[-1])[-1] for one in values]

    def greedy(self, prompt: Tokens, guesses: Tokens) -> Logits:
        """The logits (tokens, n_vocab) of which each has one of the tokens on top that the model
        writes after *prompt*, as many as there are *guesses*. Those that are right are checked
        together: one that is wrong takes another round through all parts."""
        ends = range(len(prompt), len(prompt) + len(guesses) - 1)
        for _ in guesses:
            written = [Rows(0, end, guesses[i : i + 1], True) for i, end in enumerate(ends)]
            logits = np.stack(self.last_logits([Rows(0, 0, prompt, True), *written]))
            found = logits.argmax(-1).astype(np.int32)
            if np.array_equal(found[:-1], guesses[:-1]):
                break
            guesses = found
        return logits

    def _run(
        self, part: _Part, kinds: dict[str, type[np.generic]], values: Sequence[Feeds]
    ) -> Generator[Feeds]:
        """What is known after the part, for each call. The KV cache passes from one to the next."""
        session = self._session(part, kinds)
        kinds |= {name: session.dtype(name) for name in part.gives}
        caches = [one for one in self._graph.layout.caches if one.present in part.gives]
        past: Feeds = {}
        for cache in caches:
            shape = [size or 1 for size in cache.shape]
            shape[cache.batch_axis], shape[cache.length_axis] = 1, 0
            past[cache.past] = np.empty(shape, session.dtype(cache.past))
        session.arm()
        for known in values:
            binding = session.binding()
            binding.feed({name: {**known, **past}[name] for name in session.inputs})
            for name in part.gives:
                binding.raw.bind_output(name)
            session.run(binding)
            made = (value.numpy() for value in binding.raw.get_outputs())
            found = {**known, **dict(zip(part.gives, made, strict=True))}
            past = {cache.past: found.pop(cache.present) for cache in caches}
            yield {name: value for name, value in found.items() if name in part.later}

    def _session(self, part: _Part, kinds: dict[str, type[np.generic]]) -> OnnxSession:
        options = session_options(default_threads(), spins=False)
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(self._graph.folder)
        )
        model = _model(self._graph.proto, part, kinds)
        return OnnxSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def _parts(graph: GraphProto) -> list[_Part]:
    """The graph's nodes in their order, cut where a part would have too many weights."""
    sizes = {tensor.name: _n_bytes(tensor) for tensor in graph.initializer}
    groups: list[list[NodeProto]] = [[]]
    n_held = 0
    for nodes in _with_constants(graph):
        n_bytes = sum(sizes.get(name, 0) for name in _taken(nodes))
        if groups[-1] and n_held + n_bytes > _PART_BYTES:
            groups.append([])
            n_held = 0
        groups[-1] += [node for node in nodes if node not in groups[-1]]
        n_held += n_bytes
    found: list[_Part] = []
    later = {value.name for value in graph.output}
    for nodes in reversed(groups):
        made = _made(nodes)
        found.append(_Part(nodes, sorted(made & later), later))
        later = later | (_taken(nodes) - made)
    return found[::-1]


def _with_constants(graph: GraphProto) -> Generator[list[NodeProto]]:
    """Each node behind those that only change weights for it, such as their type: ONNX Runtime
    packs what is constant, and is wrong where scales are not."""
    constants = {tensor.name: list[NodeProto]() for tensor in graph.initializer}
    for node in graph.node:
        taken = taken_by_node(node) - {""}
        before = [one for name in sorted(taken & constants.keys()) for one in constants[name]]
        if taken <= constants.keys():
            constants |= {name: [*before, node] for name in node.output}
        else:
            yield [*before, node]


def _model(proto: ModelProto, part: _Part, kinds: dict[str, type[np.generic]]) -> ModelProto:
    """A model of one part. *kinds*: of what earlier parts give."""
    taken = _taken(part.nodes) - _made(part.nodes)
    between = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), None)
        for name, kind in kinds.items()
        if name in taken
    ]
    graph = helper.make_graph(
        part.nodes,
        proto.graph.name,
        [*(value for value in proto.graph.input if value.name in taken), *between],
        [ValueInfoProto(name=name) for name in part.gives],
        initializer=[tensor for tensor in proto.graph.initializer if tensor.name in taken],
    )
    return helper.make_model(
        graph, ir_version=proto.ir_version, opset_imports=list(proto.opset_import)
    )


def _taken(nodes: Sequence[NodeProto]) -> set[str]:
    return set[str]().union(*map(taken_by_node, nodes))


def _made(nodes: Sequence[NodeProto]) -> set[str]:
    return {name for node in nodes for name in node.output if name}


def _n_bytes(tensor: TensorProto) -> int:
    place = {entry.key: entry.value for entry in tensor.external_data}
    return int(place.get("length", len(tensor.raw_data)))
