"""The engine on the real bundled model, in a real worker process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from spillover.runtime.cancellation import Cancellation
from spillover.runtime.errors import ContextOverflow, EngineBusy, InvalidRequest, ModelError
from spillover.runtime.events import Delta, Prefilling, Queued
from spillover.runtime.llama.model import with_n_params
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.options import EngineOptions
from spillover.runtime.request import GenerationRequest
from spillover.runtime.sampling import Sampling
from tests.answers import GREEDY, all_at_once, ask, end_of, ids_of, text_of, was_preempted
from tests.measured import measured

PROMPTS = [f"Tell me a story about a {kind} named {name}." for kind, name in [
    ("fox", "Ruby"), ("dog", "Max"), ("cat", "Luna"), ("frog", "Finn"), ("owl", "Olive"),
    ("bear", "Bruno"), ("mouse", "Mia"), ("hen", "Hetty"), ("pig", "Percy"), ("duck", "Dora"),
]]  # fmt: skip


def test_each_greedy_token_is_the_likeliest_for_the_high_level_library(
    model_path: Path, tmp_path: Path
) -> None:
    from llama_cpp import Llama

    options = EngineOptions(n_prefix_cached=0, n_threads=1, cache_dir=measured(tmp_path))
    llama: Any = Llama(str(model_path), n_ctx=1024, verbose=False, n_threads=1, logits_all=True)
    try:
        with LocalEngine(model_path, options) as engine:
            for prompt in PROMPTS:
                text = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
                read = llama.tokenize(text.encode(), add_bos=False, special=True)
                chosen = ids_of(engine.stream(ask(prompt, max_tokens=48)))
                assert chosen
                llama.reset()
                llama.eval([*read, *chosen])
                logits = llama.scores[len(read) - 1 : len(read) - 1 + len(chosen)]
                missing = logits.max(axis=1) - logits[range(len(chosen)), chosen]
                assert missing.max() < 0.3  # what batches of other sizes may round differently
    finally:
        llama.close()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (EngineOptions(engine="llama.cpp"), "engine.*auto, llama, onnx"),  # type: ignore[arg-type]  # as a program may
        (EngineOptions(n_ctx=-1), "n_ctx"),
        ({"n_ctx": 512}, "options must be a EngineOptions"),
    ],
)
def test_an_option_that_is_not_allowed_is_named_before_anything_is_loaded(
    model_path: Path, options: Any, named: str
) -> None:
    """The worker took it for a damaged file."""
    with pytest.raises(InvalidRequest, match=named):
        LocalEngine(model_path, options)


def test_a_stream_begins_with_queued_and_ends_with_finished(engine: LocalEngine) -> None:
    events = list(engine.stream(ask(max_tokens=5)))
    assert isinstance(events[0], Queued)
    assert any(isinstance(e, Prefilling) for e in events)
    assert events[-1] == end_of(events)
    assert end_of(events).reason == "length"
    assert end_of(events).usage.completion_tokens == 5


def test_a_model_is_described_by_kind_size_and_quantization(engine: LocalEngine) -> None:
    """llama.cpp writes "?B" for sizes that it has no name for, and guesses others: SmolLM2-135M was
    called 256M."""
    assert engine.card.description.startswith("llama 5.8M ")
    assert with_n_params("llama 256M Q4_1", 134_515_008) == "llama 0.13B Q4_1"
    assert with_n_params("llama 8x7B Q4_0", 46_700_000_000) == "llama 8x7B Q4_0"


def test_messages_may_be_dicts_and_requests_must_be_requests(engine: LocalEngine) -> None:
    # Both were an AttributeError: programs write messages as they do for other clients.
    messages: Any = ({"role": "user", "content": "Hello"},)
    request = GenerationRequest(messages=messages, max_tokens=2)
    assert end_of(list(engine.stream(request))).usage.completion_tokens == 2
    text: Any = "Hello"
    for ask_it in (engine.stream, engine.embed):
        with pytest.raises(InvalidRequest, match=r"must be a \w+, not a str"):
            next(ask_it(text))


def test_batched_greedy_answers_equal_single_ones(engine: LocalEngine) -> None:
    requests = [ask(prompt, max_tokens=24, reuse_prefix=False) for prompt in PROMPTS[:4]]
    single = [text_of(engine.stream(request)) for request in requests]
    batched = [text_of(events) for events in all_at_once(engine, requests)]
    # Later words may hang on a near tie, which a batch of another size rounds the other way.
    assert [text[:36] for text in batched] == [text[:36] for text in single]


def test_the_same_seed_gives_the_same_text_and_another_one_another(engine: LocalEngine) -> None:
    requests = [
        ask(sampling=Sampling(seed=seed), max_tokens=40, reuse_prefix=False) for seed in (7, 7, 8)
    ]
    first, second, other = (text_of(engine.stream(request)) for request in requests)
    # Later words may hang on a near tie: the slices of a prompt depend on the moment.
    assert first[:36] == second[:36]
    assert first != other


def test_choices_are_independent_and_share_one_prompt(engine: LocalEngine) -> None:
    events = list(engine.stream(ask(sampling=Sampling(seed=3), n=3, max_tokens=30)))
    texts = {text_of(events, choice) for choice in range(3)}
    assert len(texts) == 3
    assert end_of(events, 2).usage.cached_tokens > 0


def test_a_stop_string_ends_the_answer_and_is_not_sent(engine: LocalEngine) -> None:
    whole = text_of(engine.stream(ask(max_tokens=60)))
    stop = whole[30:45]
    events = list(engine.stream(ask(max_tokens=60, stop=(stop, "never said"))))
    assert text_of(events) == whole[: whole.index(stop)]
    assert end_of(events).stop == stop
    assert end_of(events).reason == "stop"


def test_ignore_eos_continues_to_max_tokens(engine: LocalEngine) -> None:
    events = list(engine.stream(ask("Hello!", max_tokens=60, ignore_eos=True)))
    assert end_of(events).usage.completion_tokens == 60


def test_logit_bias_forbids_a_token(engine: LocalEngine) -> None:
    first = ids_of(engine.stream(ask(max_tokens=1)))[0]
    biased = Sampling(temperature=0, logit_bias={first: -100.0})
    assert ids_of(engine.stream(ask(sampling=biased, max_tokens=1))) != [first]


def test_logprobs_are_those_of_the_raw_distribution(engine: LocalEngine) -> None:
    events = list(engine.stream(ask(max_tokens=4, logprobs=5)))
    records = [r for e in events if isinstance(e, Delta) for r in e.logprobs]
    assert [r.token_id for r in records] == ids_of(events)
    for record in records:
        assert record.top[0].token_id == record.token_id
        assert record.logprob == record.top[0].logprob <= 0
        assert 0 <= record.entropy < 8.4
        assert sorted((t.logprob for t in record.top), reverse=True) == [
            t.logprob for t in record.top
        ]


def test_the_next_turn_reads_only_what_is_new(engine: LocalEngine) -> None:
    first = ask("Tell me a story about a goat named Gus.", max_tokens=30)
    answer = text_of(engine.stream(first))
    turns = (
        *first.messages,
        msgspec.structs.replace(first.messages[0], role="assistant", content=answer),
        msgspec.structs.replace(first.messages[0], content="Thank you!"),
    )
    second = GenerationRequest(messages=turns, sampling=GREEDY, max_tokens=5)
    usage = end_of(engine.stream(second)).usage
    assert usage.cached_tokens >= usage.prompt_tokens - 20 > 10


def test_turns_of_several_conversations_in_turn_are_all_remembered(
    model_path: Path, tmp_path: Path
) -> None:
    options = EngineOptions(
        n_parallel=2, n_ctx=512, n_kv=1024, cache_dir=measured(tmp_path), n_threads=1
    )
    with LocalEngine(model_path, options) as engine:
        talks = [ask(prompt, max_tokens=40) for prompt in PROMPTS[:6]]
        for _ in range(2):
            for i, talk in enumerate(talks):
                events = list(engine.stream(talk))
                if len(talk.messages) > 1:
                    usage = end_of(events).usage
                    assert usage.cached_tokens >= usage.prompt_tokens - 20
                    assert ids_of(events) == ids_of(engine.stream(talk))
                turn = (
                    msgspec.structs.replace(
                        talk.messages[0], role="assistant", content=text_of(events)
                    ),
                    msgspec.structs.replace(talk.messages[0], content="And then?"),
                )
                talks[i] = msgspec.structs.replace(talk, messages=(*talk.messages, *turn))


def test_who_does_not_want_it_reuses_no_prefix(engine: LocalEngine) -> None:
    for reuse in (True, True, False):
        events = list(engine.stream(ask("A hare ran.", max_tokens=2, reuse_prefix=reuse)))
        cached = end_of(events).usage.cached_tokens
    assert cached == 0


def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(engine: LocalEngine) -> None:
    with pytest.raises(ContextOverflow) as caught:
        list(engine.stream(GenerationRequest(prompt="a b " * 2000)))
    assert caught.value.n_prompt_tokens > caught.value.n_ctx == 1024


def test_an_answer_that_fills_the_context_ends_with_length(engine: LocalEngine) -> None:
    prompt = tuple([300] * 1000)
    events = list(engine.stream(GenerationRequest(prompt=prompt, ignore_eos=True)))
    assert end_of(events).reason == "length"
    assert end_of(events).usage.completion_tokens == 24


def test_token_ids_outside_the_vocabulary_are_refused(engine: LocalEngine) -> None:
    with pytest.raises(InvalidRequest, match="99999"):
        list(engine.stream(GenerationRequest(prompt=(1, 99999))))


def test_beyond_the_queue_requests_are_refused_with_a_time(
    model_path: Path, tmp_path: Path
) -> None:
    options = EngineOptions(n_parallel=1, max_queue=1, cache_dir=measured(tmp_path), n_threads=1)
    with LocalEngine(model_path, options) as engine:
        engine.wait_ready(60)
        streams = [engine.stream(ask(ignore_eos=True)) for _ in range(2)]
        for stream in streams:
            assert isinstance(next(stream), Queued)
        with pytest.raises(EngineBusy) as caught:
            next(engine.stream(ask()))
        assert caught.value.retry_after_s > 0
        for stream in streams:
            stream.close()


def test_cancel_ends_a_running_answer_and_frees_its_slot(engine: LocalEngine) -> None:
    cancellation = Cancellation()
    events = []
    for event in engine.stream(ask(ignore_eos=True), cancellation):
        events.append(event)
        if isinstance(event, Delta):
            cancellation.cancel()
    assert end_of(events).reason == "cancelled"
    assert all(slot.state == "idle" for slot in engine.status().slots)


def test_a_full_kv_cache_loses_no_answer(any_model_path: Path, tmp_path: Path) -> None:
    small = EngineOptions(
        n_parallel=4, n_ctx=512, n_kv=512, cache_dir=measured(tmp_path, any_model_path), n_threads=1
    )
    requests = [
        ask(prompt, sampling=Sampling(seed=5), max_tokens=180, ignore_eos=True)
        for prompt in PROMPTS[:4]
    ]
    with LocalEngine(any_model_path, small) as engine:
        answers = all_at_once(engine, requests)
    for events in answers:
        assert end_of(events).usage.completion_tokens == 180
        assert len(ids_of(events)) == 180
    assert any(map(was_preempted, answers))  # 4 * 190 tokens into 512 cells


def test_kill_9_in_mid_answer_loses_and_doubles_nothing(
    any_model_path: Path, tmp_path: Path
) -> None:
    request = ask(sampling=Sampling(seed=11), max_tokens=300, ignore_eos=True)
    with LocalEngine(
        any_model_path, EngineOptions(cache_dir=measured(tmp_path, any_model_path), n_threads=1)
    ) as engine:
        engine.wait_ready(60)
        whole = list(engine.stream(request))
        events = []
        for event in engine.stream(request):
            events.append(event)
            if len(events) == 40:
                assert engine.worker_pid is not None
                os.kill(engine.worker_pid, signal.SIGKILL)
        assert engine.status().n_restarts == 1
    assert len(ids_of(events)) == 300
    same = sum(a == b for a, b in zip(ids_of(events), ids_of(whole), strict=True))
    assert same >= 30
    assert text_of(events)[:60] == text_of(whole)[:60]


def test_the_worker_ends_when_its_parent_is_killed(any_model_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from spillover.runtime.local_engine import LocalEngine\n"
        "engine = LocalEngine(sys.argv[1]); engine.wait_ready(60)\n"
        "print(engine.worker_pid, flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(any_model_path)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    worker = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait(10)
    parent.stdout.close()
    gone, _ = psutil.wait_procs([worker], timeout=10)
    assert gone == [worker]


def test_a_file_that_is_not_a_model_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "page.gguf"
    path.write_text("<html>404</html>")
    with LocalEngine(path) as engine, pytest.raises(ModelError, match="web page"):
        engine.wait_ready(60)


def test_a_damaged_model_is_an_error_and_no_crash(tmp_path: Path, model_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(model_path.read_bytes()[:1_000_000])
    with LocalEngine(path) as engine, pytest.raises(ModelError, match="download it again"):
        list(engine.stream(ask()))


def test_closing_the_engine_ends_its_streams(any_model_path: Path, tmp_path: Path) -> None:
    engine = LocalEngine(
        any_model_path, EngineOptions(cache_dir=measured(tmp_path, any_model_path), n_threads=1)
    )
    errors: list[str] = []
    begun = threading.Event()

    def follow() -> None:
        try:
            for _ in engine.stream(ask(ignore_eos=True)):
                begun.set()
        except Exception as error:
            errors.append(type(error).__name__)

    thread = threading.Thread(target=follow)
    thread.start()
    assert begun.wait(60)
    engine.close()
    thread.join(20)
    assert errors == ["EngineClosed"]
