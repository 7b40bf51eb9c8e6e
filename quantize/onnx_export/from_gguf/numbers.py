"""The numbers in the metadata of a GGUF file, checked."""

from __future__ import annotations

from spillover.models.gguf_header import GgufHeader
from spillover.quantize.onnx_export.errors import ExportError


class GgufNumbers:
    """Those under the name of the file's architecture. Methods raise ExportError."""

    def __init__(self, header: GgufHeader) -> None:
        self.architecture = header.architecture
        self._metadata = header.metadata

    def whole(self, key: str, default: int | None = None) -> int:
        value = self._of_all_layers(key, default)
        if not isinstance(value, int) or not 0 < value <= 1 << 24:
            raise ExportError(f"the GGUF file gives {key} as {value!r}")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        value = self._of_all_layers(key, default)
        if not isinstance(value, int | float) or not 0 < value <= 1e9:
            raise ExportError(f"the GGUF file gives {key} as {value!r}")
        return float(value)

    def get(self, key: str) -> object:
        """The value as it is; None if there is none."""
        return self._metadata.get(f"{self.architecture}.{key}")

    def _of_all_layers(self, key: str, default: float | None) -> object:
        value = self.get(key)
        if isinstance(value, list) and len(set(value)) == 1:
            return value[0]
        return default if value is None else value
