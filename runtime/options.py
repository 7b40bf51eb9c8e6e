"""The options of a local engine: the only place for these defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct, structs

from spillover.runtime.setting_help import Help

KvCacheType: TypeAlias = Literal["f16", "q8_0", "q4_0"]
EngineName: TypeAlias = Literal["auto", "llama", "onnx"]
PowerSaving: TypeAlias = Literal["auto", "on", "off"]
SecondLayout: TypeAlias = Literal["auto", "on", "off"]
SpeculationChoice: TypeAlias = Literal["auto", "off"]
PrefixDiskChoice: TypeAlias = Literal["off", "instructions", "all"]
PoolingChoice: TypeAlias = Literal["auto", "mean", "cls", "last"]
ExecutionProvider: TypeAlias = Literal[
    "auto", "cpu", "cuda", "tensorrt", "directml", "coreml", "openvino"
]


class EngineOptions(Struct, frozen=True, kw_only=True):
    """Settings of a LocalEngine. None means: chosen from the model and this device."""

    engine: Annotated[
        EngineName,
        Help("What runs a GGUF file; auto: what was measured to be faster here.", flag="--engine"),
    ] = "auto"
    """auto: llama.cpp, until a conversion of the file was found to be as true and faster with ONNX
    Runtime. onnx: a conversion, whatever was measured."""
    conversion_cache_mb: Annotated[
        float,
        Meta(ge=0, le=16_777_216),
        Help("Disk space (MiB) for GGUF files converted for ONNX Runtime; 0 converts none."),
    ] = 16_384.0
    """Those used least recently are removed first."""

    n_ctx: Annotated[
        Annotated[int, Meta(ge=16, le=1_048_576)] | None,
        Help("Most tokens of one conversation, prompt and answer together.", flag="--n-ctx"),
    ] = None
    """None: what the model was trained for, as memory allows."""
    n_kv: Annotated[
        Annotated[int, Meta(ge=16, le=8_388_608)] | None,
        Help("Size of the KV cache that all conversations share, in tokens.", flag="--n-kv"),
    ] = None
    """None: n_ctx for each sequence, as memory allows."""
    n_parallel: Annotated[
        Annotated[int, Meta(ge=1, le=64)] | None,
        Help("Answers generated at the same time.", flag="--parallel"),
    ] = None
    """None: from memory, at least 4."""
    n_threads: Annotated[
        Annotated[int, Meta(ge=1, le=512)] | None,
        Help("Threads to compute with.", flag="--threads"),
    ] = None
    """None: the physical cores that affinity and cgroup quota leave to this process; fewer for a
    small GGUF model where that is measured to be faster."""
    adapt_threads: Annotated[
        bool, Help("Use fewer threads while other programs need the cores (Linux, GGUF).")
    ] = True
    """Rounding depends on the number of threads, so near ties may turn; see *deterministic*."""
    power_saving: Annotated[
        PowerSaving,
        Help(
            "Compute with half of the threads and read prompts in smaller slices; auto: on "
            "battery, and while the processor is hot.",
            flag="--power-saving",
        ),
    ] = "auto"
    """The threads of ONNX Runtime stay as they are."""
    n_gpu_layers: Annotated[
        Annotated[int, Meta(ge=-1, le=10_000)] | None,
        Help(
            "Layers on the GPU, if there is one; -1 means all.",
            flag="--gpu-layers",
            default="as many as fit",
        ),
    ] = None
    """None: as many as its memory holds."""
    kv_cache_type: Annotated[
        KvCacheType | None,
        Help(
            "Number format of the KV cache; smaller formats save memory.",
            flag="--kv-cache-type",
            default="f16, or q8_0 where memory is small",
        ),
    ] = None
    """None: f16, or q8_0 where memory would hold only a short context."""
    execution_provider: Annotated[
        ExecutionProvider,
        Help("What runs an ONNX model, if onnxruntime has it; auto picks the fastest."),
    ] = "auto"
    """A provider that proves slower than the CPU is not used. auto never picks TensorRT."""
    max_queue: Annotated[
        int,
        Meta(ge=0, le=10_000),
        Help("Most requests that may wait; the next one is refused.", flag="--max-queue"),
    ] = 32
    """Refused with EngineBusy."""
    max_background: Annotated[
        int,
        Meta(ge=0, le=10_000),
        Help(
            "Most answers of background priority that may run and wait; the next is refused. 0: "
            "they all are."
        ),
    ] = 16
    """They take no place of other requests."""
    max_gap_ms: Annotated[
        float,
        Meta(ge=20, le=60_000),
        Help(
            "Longest pause of running streams, in milliseconds, while a prompt is read.",
            flag="--max-gap-ms",
        ),
    ] = 250.0
    n_prefix_cached: Annotated[
        int,
        Meta(ge=0, le=128),
        Help("Finished conversations that stay in the KV cache itself for their next turn."),
    ] = 8
    """Others, and those whose cells a running answer needs, are saved in the prefix cache."""
    prefix_cache_mb: Annotated[
        Annotated[float, Meta(ge=0, le=1_048_576)] | None,
        Help(
            "Memory (MiB) for the prefix cache: what was read and written in finished "
            "conversations; 0 saves none.",
            flag="--prefix-cache-mb",
        ),
    ] = None
    """None: a quarter of the memory that is free beside the model and a full KV cache, 2 GiB at
    most. It is given back when the system is short of memory."""
    prefix_disk: Annotated[
        PrefixDiskChoice,
        Help(
            "What of the prefix cache is kept on disk: nothing, long instructions and tools that "
            "were used twice, or all that is long.",
            flag="--prefix-disk",
        ),
    ] = "instructions"
    """See docs/privacy.md: with "all", conversations are on disk."""
    prefix_disk_mb: Annotated[
        float,
        Meta(ge=0, le=16_777_216),
        Help("Disk space (MiB) for it, of all models together."),
    ] = 2048.0
    """What was used least recently is removed first."""
    deterministic: Annotated[
        bool, Help("Give equal requests equal answers, whatever else runs: one at a time, slower.")
    ] = False
    """One sequence at a time in an empty KV cache, prompts in slices of a fixed size, and a fixed
    number of threads: sums are then made in the same order. It overrides n_parallel,
    n_prefix_cached, prefix_cache_mb, prefix_disk, adapt_threads, power_saving, second_layout,
    speculation, and engine, execution_provider and kv_cache_type where they are auto."""
    use_extra_bufts: Annotated[
        bool, Help("Let llama.cpp repack the weights: faster. Off after a crash at load.")
    ] = True
    second_layout: Annotated[
        SecondLayout, Help("Keep the weights in a second layout that reads prompts faster.")
    ] = "auto"
    """GGUF only: repacked, and as in the file; prompts are read up to 1.5 times as fast.
    auto: where a measurement on this device shows a gain and memory allows it."""
    speculation: Annotated[
        SpeculationChoice,
        Help(
            "Check several likely tokens at once where an answer repeats its text; auto: while "
            "that is measured to be faster.",
            flag="--speculation",
        ),
    ] = "auto"
    """The text stays the same, but for near ties: rounding may depend on how many tokens a call
    has. Off for models whose KV cache cannot be cut: recurrent ones, and GGUF with windows."""
    draft_model: Annotated[
        Path | None,
        Help(
            "GGUF file of a small model with the same vocabulary, which proposes tokens where the "
            "text does not.",
            flag="--draft-model",
            default="none",
        ),
    ] = None
    """For GGUF models that are many times as large, with *speculation*. Both models have room for
    all cells of the KV cache."""
    pooling: Annotated[
        PoolingChoice,
        Help(
            "How the vectors of an input's tokens become one; auto: the model's own way.",
            flag="--pooling",
        ),
    ] = "auto"
    chat_template: Annotated[
        str,
        Help(
            "Jinja chat template in place of the model's own; chatml means ChatML.",
            flag="--chat-template",
            default="the model's own",
        ),
    ] = ""
    chat_template_file: Annotated[
        Path | None,
        Help(
            "File with a chat template in place of the model's own.",
            flag="--chat-template-file",
            default="none",
        ),
    ] = None
    load_timeout_s: Annotated[
        float, Meta(gt=0, le=86_400), Help("Seconds after which loading a model fails.")
    ] = 600.0
    max_restarts: Annotated[
        int,
        Meta(ge=0, le=100),
        Help("Restarts of a crashed worker within ten minutes before the engine pauses."),
    ] = 5
    hang_timeout_s: Annotated[
        float,
        Meta(gt=0, le=3_600),
        Help("Seconds without a sign of life after which a worker is replaced."),
    ] = 10.0
    """One that computes without an end is replaced after 30 times as long."""
    cache_dir: Annotated[
        Path | None,
        Help("Folder for measurements of this device.", default="the user's cache folder"),
    ] = None

    def settled(self) -> EngineOptions:
        """With *deterministic*, the settings that it overrides."""
        if not self.deterministic:
            return self
        is_auto = self.execution_provider == "auto"  # picks by a measurement
        return structs.replace(
            self,
            n_parallel=1,
            n_prefix_cached=0,
            prefix_cache_mb=0.0,
            prefix_disk="off",
            adapt_threads=False,
            power_saving="off",
            second_layout="off",
            speculation="off",
            kv_cache_type=self.kv_cache_type or "f16",  # what is free is no reason to round
            execution_provider="cpu" if is_auto else self.execution_provider,
        )
