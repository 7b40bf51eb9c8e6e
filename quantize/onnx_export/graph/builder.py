"""Nodes of a graph under construction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from spillover.quantize.onnx_export.graph.initializers import Initializers

MICROSOFT = "com.microsoft"


class GraphBuilder:
    """Collects nodes; every method returns the names of what it adds."""

    def __init__(self, initializers: Initializers) -> None:
        self.nodes: list[NodeProto] = []
        self.initializers = initializers
        self._constants: dict[tuple[object, ...], str] = {}

    def add(
        self,
        op: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        *,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Add a node and return the name of its first output, which is its own name too."""
        node = helper.make_node(op, inputs, outputs, name=outputs[0], domain=domain, **attributes)
        self.nodes.append(node)
        return outputs[0]

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        """The name of a small constant; the same value is stored once."""
        array = np.asarray(value, dtype)
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"constant.{len(self._constants)}"
            self._constants[key] = self.initializers.add(name, array)
        return self._constants[key]
