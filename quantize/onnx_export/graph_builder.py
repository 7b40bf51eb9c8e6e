"""Nodes of a graph under construction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from spillover.quantize.onnx_export.initializers import Initializers

MICROSOFT = "com.microsoft"


class GraphBuilder:
    """Collects nodes; every method gives the names of what it adds."""

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
        """A node; the name of its first output. Its own name is its first output's."""
        node = helper.make_node(op, inputs, outputs, name=outputs[0], domain=domain, **attributes)
        self.nodes.append(node)
        return outputs[0]

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        """A small constant; the same one for the same value."""
        array = np.asarray(value, dtype)
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"constant.{len(self._constants)}"
            self._constants[key] = self.initializers.add(name, array)
        return self._constants[key]
