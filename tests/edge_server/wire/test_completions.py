"""Text completions in OpenAI's dialect and in llama.cpp's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import msgspec
import openai
import pytest

from spillover.cloud_fallback.events import Replace
from spillover.edge_server.wire.openai.completions import Completions, CompletionWhole
from spillover.models.catalogue import default_model
from spillover.runtime.events import Delta, Finished, Timings, TokenLogprob, Usage
from spillover.runtime.request import GenerationRequest
from spillover.runtime.sampling import Sampling
from tests.edge_server.conftest import Server
from tests.edge_server.places import all_idle
from tests.gguf_edit import with_numbers
from tests.waiting import wait_until


def post(http: httpx.Client, path: str, **body: Any) -> Any:
    response = http.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def chunks_of(text: str) -> list[Any]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


PROMPTS = ["Once upon a time", "A dog named Max", "The red ball"]


def begin_alike(one: Any, other: Any) -> bool:
    """Whether two choices had the same likeliest first word. The words that were chosen may differ:
    a near tie rounds one way in a batch of one row and another in one of three."""
    top, same = (choice.logprobs.top_logprobs[0] for choice in (one, other))
    word = max(top, key=top.__getitem__)
    return word in same and abs(same[word] - top[word]) < 0.3


def test_several_prompts_are_answered_prompt_by_prompt(
    client: openai.OpenAI, http: httpx.Client
) -> None:
    ask: dict[str, Any] = {"model": "m", "max_tokens": 9, "seed": 3, "logprobs": 5}
    together = client.completions.create(prompt=PROMPTS, n=2, **ask)
    assert [choice.index for choice in together.choices] == list(range(6))
    for i, prompt in enumerate(PROMPTS):
        alone = client.completions.create(prompt=prompt, n=2, **ask)
        pair = together.choices[2 * i : 2 * i + 2]
        assert all(map(begin_alike, pair, alone.choices))
    assert together.usage is not None
    assert together.usage.completion_tokens == 54
    n_read = [len(post(http, "/tokenize", content=prompt)["tokens"]) for prompt in PROMPTS]
    assert together.usage.prompt_tokens == sum(n_read)


def test_several_prompts_stream_into_their_own_choices(client: openai.OpenAI) -> None:
    ask: dict[str, Any] = {"model": "m", "prompt": PROMPTS, "max_tokens": 9, "logprobs": 5}
    whole = client.completions.create(**ask)
    firsts: dict[int, Any] = {}
    texts = [""] * 3
    reasons = [""] * 3
    for chunk in client.completions.create(**ask, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            firsts.setdefault(choice.index, choice)
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert all(begin_alike(firsts[choice.index], choice) for choice in whole.choices)
    assert all(texts)
    assert reasons == ["length"] * 3


def test_more_prompts_than_the_queue_holds_wait_for_their_turn(http: httpx.Client) -> None:
    prompts = [f"Story number {i}" for i in range(30)]  # 4 places and a queue of 4
    answer = post(http, "/v1/completions", prompt=prompts, max_tokens=3, temperature=0)
    assert [choice["index"] for choice in answer["choices"]] == list(range(30))
    assert all(choice["finish_reason"] == "length" for choice in answer["choices"])


def test_an_error_in_a_late_prompt_shows_before_anything_is_begun(http: httpx.Client) -> None:
    body = {"prompt": ["x"] * 9 + ["a b " * 2000], "stream": True}
    response = http.post("/v1/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "exceed_context_size_error"


def test_a_client_that_leaves_ends_all_of_its_prompts(server: Server, http: httpx.Client) -> None:
    body = {"prompt": PROMPTS * 4, "ignore_eos": True, "stream": True}
    with http.stream("POST", "/v1/completions", json=body) as response:
        for _ in response.iter_raw():
            break
    wait_until(lambda: all_idle(http))


def test_echo_puts_the_prompt_in_front(client: openai.OpenAI, http: httpx.Client) -> None:
    word, *_ = post(http, "/tokenize", content=" fox")["tokens"]
    bias = {str(word): 100}  # so that the model says the same each time
    ask: dict[str, Any] = {"model": "m", "prompt": PROMPTS[:2], "max_tokens": 4, "logit_bias": bias}
    plain = client.completions.create(**ask)
    echoed = client.completions.create(**ask, echo=True)
    wanted = [p + c.text for p, c in zip(PROMPTS, plain.choices, strict=False)]
    assert [choice.text for choice in echoed.choices] == wanted
    streamed = ["", ""]
    for chunk in client.completions.create(**ask, echo=True, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert streamed == wanted
    ids = post(http, "/tokenize", content=PROMPTS[0])["tokens"]
    from_ids = client.completions.create(**{**ask, "prompt": ids}, echo=True)
    assert from_ids.choices[0].text == wanted[0]


def test_text_is_taken_back_from_the_answer_and_not_from_the_echo() -> None:
    """The prompt was counted, too, so that too much was taken back."""
    wanted = Completions(requests=(GenerationRequest(prompt="Once"),), n_wanted=1, echoes=("Once",))
    encoder = CompletionWhole({}, wanted, logprobs=False)
    usage = Usage(prompt_tokens=1, cached_tokens=0, completion_tokens=1)
    timings = Timings(queue_ms=0, prefill_ms=1, decode_ms=1)
    encoder.feed(Delta(text=" upon bad"))
    encoder.feed(Replace(keep_chars=5))
    encoder.feed(Delta(text=" a time"))
    encoder.feed(Finished(reason="stop", usage=usage, timings=timings))
    assert json.loads(encoder.end())["choices"][0]["text"] == "Once upon a time"


def test_best_of_shows_the_likeliest() -> None:
    """Of two prompts, whose choices have these log probabilities."""
    made = [(-2.0, -2.0), (-1.0,), (-9.0, -0.1), (-3.0,), (-5.0,), (-0.9,) * 4]
    requests = (GenerationRequest(prompt="x", n=3),) * 2
    wanted = Completions(requests=requests, n_wanted=2, echoes=("", ""))
    encoder = CompletionWhole({}, wanted, logprobs=False)
    usage = Usage(prompt_tokens=1, cached_tokens=0, completion_tokens=1)
    timings = Timings(queue_ms=0, prefill_ms=1, decode_ms=1)
    for choice, logprobs in enumerate(made):
        records = tuple(
            TokenLogprob(token_id=1, token=b"x", logprob=logprob, entropy=0.5)
            for logprob in logprobs
        )
        encoder.feed(Delta(choice=choice, text=str(choice), logprobs=records))
        encoder.feed(Finished(choice=choice, reason="stop", usage=usage, timings=timings))
    shown = [choice["text"] for choice in json.loads(encoder.body())["choices"]]
    assert shown == ["1", "0", "5", "3"]


def test_best_of_makes_all_and_shows_some_best_first(http: httpx.Client) -> None:
    ask = {"prompt": "Once", "max_tokens": 8, "temperature": 1.5, "seed": 1, "logprobs": 0}
    best = post(http, "/v1/completions", **ask, ignore_eos=True, n=2, best_of=6)
    means = [
        sum(c["logprobs"]["token_logprobs"]) / len(c["logprobs"]["tokens"]) for c in best["choices"]
    ]
    assert len(means) == 2
    assert means[0] >= means[1]
    assert best["usage"]["completion_tokens"] == 48


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": "x", "n": 0, "best_of": 2}, "n"),
        ({"prompt": "x", "n": -1, "best_of": 3}, "n"),
        ({"prompt": []}, "prompt"),
        ({"prompt": {}}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": [1, True]}, "prompt[1]"),
        ({"prompt": [1, -1]}, "prompt[1]"),
        ({"prompt": ["x", 2.5]}, "prompt[1]"),
        ({"prompt": ["x", []]}, "prompt[1]"),
        ({"prompt": ["x"] * 129}, "prompt"),
        ({"prompt": ["x"] * 100, "n": 3}, "prompt"),
        ({"prompt": "x", "n": 17}, "n"),
        ({"prompt": "x", "n": 3, "best_of": 2}, "best_of"),
        ({"prompt": "x", "best_of": 2, "stream": True}, "best_of"),
        ({"prompt": "x", "best_of": 99}, "best_of"),
        ({"prompt": "x", "echo": True, "logprobs": 1}, "echo"),
        ({"prompt": "x", "suffix": "y"}, "suffix"),
        ({"prompt": [99999]}, "prompt[0]"),
        ({"prompt": {"prompt_string": "x", "multimodal_data": ["y"]}}, "multimodal_data"),
    ],
)
def test_an_unsupported_request_is_a_400_that_names_the_field(
    http: httpx.Client, body: dict[str, Any], param: str
) -> None:
    response = http.post("/v1/completions", json=body)
    assert response.status_code == 400, response.text
    assert param in response.json()["error"]["param"]


def test_llama_cpps_own_clients_get_their_shape(http: httpx.Client) -> None:
    answer = post(
        http, "/completion", prompt="Once upon a time", n_predict=6, temperature=0,
        return_tokens=True, n_probs=3, seed=5,
    )  # fmt: skip
    assert answer["content"].startswith(", ")
    assert (answer["stop"], answer["stop_type"], answer["truncated"]) == (True, "limit", False)
    assert len(answer["tokens"]) == answer["tokens_predicted"] == 6
    assert answer["tokens_evaluated"] == answer["timings"]["prompt_n"] + answer["tokens_cached"]
    assert answer["generation_settings"]["n_predict"] == 6
    assert answer["generation_settings"]["seed"] == 5
    assert answer["prompt"] == "Once upon a time"
    assert [p["id"] for p in answer["completion_probabilities"]] == answer["tokens"]
    assert all(len(p["top_logprobs"]) == 3 for p in answer["completion_probabilities"])


SAMPLERS: dict[str, Any] = {
    "temperature": 0.5,
    "top_k": 7,
    "top_p": 0.6,
    "min_p": 0.1,
    "typical_p": 0.9,
    "repeat_penalty": 1.1,
    "repeat_last_n": 9,
    "presence_penalty": 0.2,
    "frequency_penalty": 0.3,
    "dry_multiplier": 0.4,
    "dry_base": 2.0,
    "dry_allowed_length": 3,
    "dry_penalty_last_n": 8,
    "dry_sequence_breakers": ["."],
    "xtc_probability": 0.25,
    "xtc_threshold": 0.3,
    "seed": 5,
}


def test_every_sampling_parameter_can_be_asked_for(http: httpx.Client) -> None:
    assert set(SAMPLERS) == set(Sampling.__struct_fields__) - {"logit_bias"}
    defaults = msgspec.to_builtins(Sampling())
    assert all(value != defaults[name] for name, value in SAMPLERS.items())
    answer = post(http, "/completion", prompt="Once", n_predict=1, **SAMPLERS)
    shown = answer["generation_settings"]
    assert {name: shown[name] for name in SAMPLERS} == SAMPLERS


def test_its_stream_has_no_sentinel_and_ends_with_the_settings(http: httpx.Client) -> None:
    ask = {"prompt": "Once upon a time", "n_predict": 20, "temperature": 0}
    response = http.post("/completions", json={**ask, "stream": True, "n_probs": 1})
    *deltas, last = chunks_of(response.text)
    assert "[DONE]" not in response.text
    assert not any(delta["stop"] for delta in deltas)
    assert all(len(delta["completion_probabilities"]) == len(delta["tokens"]) for delta in deltas)
    whole = post(http, "/completion", **ask)
    assert "".join(delta["content"] for delta in deltas) == whole["content"]
    assert last["stop"]
    assert last["timings"]["predicted_n"] == 20
    assert whole["tokens"] == []


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_it_shows_what_each_token_was_drawn_from(http: httpx.Client, temperature: float) -> None:
    """It was a 400."""
    ask = {"prompt": "Once upon a time", "n_predict": 8, "n_probs": 5, "seed": 1, "top_k": 3}
    ask |= {"temperature": temperature, "ignore_eos": True}
    plain = post(http, "/completion", **ask, return_tokens=True)
    whole = post(http, "/completion", **ask, post_sampling_probs=True)
    shown = whole["completion_probabilities"]
    assert [one["id"] for one in shown] == plain["tokens"]
    assert whole["generation_settings"]["post_sampling_probs"] is True
    for one in shown:
        assert one.keys() == {"id", "token", "bytes", "prob", "top_probs"}
        shares = [top["prob"] for top in one["top_probs"]]
        assert sum(shares) == pytest.approx(1)
        assert shares == sorted(shares, reverse=True)
        assert 1 <= len(shares) <= (3 if temperature else 1)
        assert one["prob"] in shares
    stream = http.post("/completion", json=ask | {"post_sampling_probs": True, "stream": True}).text
    parts = [
        one for chunk in chunks_of(stream) for one in chunk.get("completion_probabilities", [])
    ]
    assert [one["id"] for one in parts] == plain["tokens"]
    assert all(one["prob"] > 0 for one in parts)


@pytest.mark.parametrize("path", ["/completion", "/v1/completions", "/v1/chat/completions"])
def test_each_chunk_may_carry_its_timings(http: httpx.Client, path: str) -> None:
    """Only the last one did."""
    ask = {"prompt": "Once upon a time", "messages": [{"role": "user", "content": "Hi"}]}
    ask.pop("messages" if path != "/v1/chat/completions" else "prompt")
    body = {**ask, "max_tokens": 12, "ignore_eos": True, "stream": True, "timings_per_token": True}
    chunks = chunks_of(http.post(path, json=body).text)
    timed = [chunk["timings"] for chunk in chunks if "timings" in chunk]
    texts = [chunk for chunk in chunks if has_text(chunk)]
    assert len(texts) > 1
    assert all("timings" in chunk for chunk in texts)
    counts = [one["predicted_n"] for one in timed]
    assert counts == sorted(counts)
    assert (counts[0] < 12, counts[-1]) == (True, 12)
    assert len({one["prompt_n"] for one in timed}) == 1
    assert len({one["prompt_ms"] for one in timed}) == 1
    plain = chunks_of(http.post(path, json=body | {"timings_per_token": False}).text)
    assert sum("timings" in chunk for chunk in plain) == 1


def has_text(chunk: Any) -> bool:
    """Whether a chunk of any dialect carries a part of the answer's text."""
    if "content" in chunk:
        return bool(chunk["content"])
    choices = chunk["choices"]
    return any(c.get("text") or c.get("delta", {}).get("content") for c in choices)


def test_the_prompt_is_shown_beside_its_answers(http: httpx.Client) -> None:
    """Only chat completions did it."""
    body = {"prompt": "Once upon a time", "max_tokens": 2, "verbose": True, "n": 2}
    shown = post(http, "/v1/completions", **body)["__verbose"]
    assert shown["prompt"] == "Once upon a time"
    assert shown["generation_settings"]["n_predict"] == 2
    two = body | {"prompt": ["One", "Two"]}
    assert [one["prompt"] for one in post(http, "/v1/completions", **two)["__verbose"]] == [
        "One",
        "Two",
    ]
    chunks = chunks_of(http.post("/v1/completions", json=two | {"stream": True}).text)
    ends = [chunk for chunk in chunks if "__verbose" in chunk]
    assert sorted((c["choices"][0]["index"], c["__verbose"]["prompt"]) for c in ends) == [
        (0, "One"),
        (1, "One"),
        (2, "Two"),
        (3, "Two"),
    ]


def test_openais_logprobs_have_no_place_for_what_a_token_was_drawn_from(
    http: httpx.Client,
) -> None:
    body = {"prompt": "Once", "max_tokens": 1, "logprobs": 2, "post_sampling_probs": True}
    response = http.post("/v1/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "post_sampling_probs"


def test_a_chat_shows_what_each_token_was_drawn_from(http: httpx.Client) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "ignore_eos": True}
    body |= {"logprobs": True, "top_logprobs": 2, "post_sampling_probs": True}
    shown = post(http, "/v1/chat/completions", **body)["choices"][0]["logprobs"]["content"]
    assert len(shown) == 4
    assert all(one["prob"] > 0 and len(one["top_probs"]) <= 2 for one in shown)


@pytest.mark.parametrize("prompt", [[1, "a"] * 1_000, [[1, "a"] * 100] * 100])
def test_a_prompt_of_thousands_of_texts_is_refused(http: httpx.Client, prompt: Any) -> None:
    """The worker was asked for each: 7 MB of them held a thread for an hour."""
    response = http.post("/completion", json={"prompt": prompt, "n_predict": 1})
    assert response.status_code == 400
    assert "at most 256 texts" in response.json()["error"]["message"]


def test_its_prompts_may_mix_texts_and_ids_and_be_several(http: httpx.Client) -> None:
    ids = post(http, "/tokenize", content="upon a time")["tokens"]
    prompts = ["Once upon a time", {"prompt_string": "Once upon a time"}, ["Once ", *ids]]
    answers = post(
        http, "/completion", prompt=prompts, n_predict=4, temperature=0,
        response_fields=["content", "index", "timings/predicted_n", "nothing"],
    )  # fmt: skip
    assert [answer["index"] for answer in answers] == [0, 1, 2]
    assert answers[0]["content"] == answers[1]["content"]
    assert all(set(a) == {"content", "index", "timings/predicted_n"} for a in answers)


def test_it_says_why_an_answer_stopped(http: httpx.Client) -> None:
    ask = {"prompt": "Once upon a time", "temperature": 0}
    text = post(http, "/completion", **ask, n_predict=30)["content"]
    stopped = post(http, "/completion", **ask, n_predict=30, stop=[text[20:26]])
    assert (stopped["stop_type"], stopped["stopping_word"]) == ("word", text[20:26])
    full = post(http, "/completion", prompt=[300] * 1000, ignore_eos=True, temperature=0)
    assert (full["stop_type"], full["truncated"]) == ("limit", True)
    chat = "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n"
    assert post(http, "/completion", prompt=chat, temperature=0)["stop_type"] == "eos"


def test_zero_tokens_only_read_the_prompt(http: httpx.Client) -> None:
    prompt = "A long beginning that the next request shares with this one, word for word. "
    first = post(http, "/completion", prompt=prompt, n_predict=0)
    assert (first["content"], first["tokens_predicted"]) == ("", 0)
    second = post(http, "/completion", prompt=prompt + "And then?", n_predict=1)
    assert second["tokens_cached"] >= first["tokens_evaluated"] - 1


@pytest.mark.parametrize(
    "biases", [[[" the", False], [" a", -100]], {" the": -100, " a": -100}, [[261, -100]]]
)
def test_its_biases_may_name_texts(http: httpx.Client, biases: Any) -> None:
    ask = {"prompt": "Once upon", "n_predict": 3, "temperature": 0}
    assert post(http, "/completion", **ask)["content"].startswith(" a")
    assert not post(http, "/completion", **ask, logit_bias=biases)["content"].startswith(" a ")


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("prompt", None),
        ("prompt", [4096]),
        ("prompt", "a b " * 2000),
        ("mirostat", 2),
        ("logit_bias", [[True, 1]]),
        ("logit_bias", [[1]]),
        ("logit_bias", [[10**12, 1]]),
        ("logit_bias", {"9" * 5000: 1}),
        ("logit_bias", 5),
        ("n_probs", -1),
        ("n_probs", 21),
        ("n_cmpl", 17),
        ("n_predict", "many"),
        ("n_predict", -5),
        ("grammar", "root ::= ("),
    ],
)
def test_its_malformed_bodies_are_400s_that_name_the_field(
    http: httpx.Client, param: str, value: Any
) -> None:
    response = http.post("/completion", json={"prompt": "x", param: value})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["message"]
    assert error["param"].startswith(param)


def test_a_bias_may_be_any_number(http: httpx.Client) -> None:
    """An integer too large for a float used to be an internal error."""
    answer = post(http, "/completion", prompt="x", n_predict=1, logit_bias=[[100, 10**400]])
    assert answer["tokens_predicted"] == 1


def test_ids_that_no_vocabulary_has_are_400s(http: httpx.Client) -> None:
    response = http.post("/detokenize", json={"tokens": [1, 10**20]})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == "tokens[1]"


def test_pieces_of_a_text_are_texts_or_bytes(http: httpx.Client) -> None:
    tokens = post(http, "/tokenize", content="Max 🤗", with_pieces=True)["tokens"]
    content = b"".join(
        token["piece"].encode() if isinstance(token["piece"], str) else bytes(token["piece"])
        for token in tokens
    )
    assert content.decode() == "Max 🤗"
    assert any(isinstance(token["piece"], list) for token in tokens)


def test_a_model_is_found_by_its_name(client: openai.OpenAI) -> None:
    assert client.models.retrieve("storyteller").id == "storyteller"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("someone/else")


def test_a_model_without_the_tokens_cannot_fill_in(http: httpx.Client) -> None:
    response = http.post("/infill", json={"input_prefix": "a", "input_suffix": "b"})
    assert response.status_code == 501
    assert response.json()["error"]["type"] == "not_supported_error"


FIM = {"prefix": 7, "suffix": 8, "middle": 9, "repo": 10, "file": 11}
FIM_KEYS = {"prefix": "fim_pre", "suffix": "fim_suf", "middle": "fim_mid", "repo": "fim_rep",
            "file": "fim_sep"}  # fmt: skip


def test_a_model_with_the_tokens_fills_in_the_middle(tmp_path: Path) -> None:
    keys = {f"tokenizer.ggml.{FIM_KEYS[name]}_token_id": value for name, value in FIM.items()}
    model = with_numbers(Path(default_model().path), tmp_path / "fim.gguf", keys)
    server = Server(tmp_path, str(model), "--parallel", "1")
    try:
        with httpx.Client(base_url=server.url, timeout=60) as http:
            ask = {"temperature": 0, "n_predict": 4}
            pre, suf = (post(http, "/tokenize", content=t)["tokens"] for t in ("One ", " three"))
            by_hand = [FIM["prefix"], *pre, FIM["suffix"], *suf, FIM["middle"]]
            wanted = post(http, "/completion", prompt=by_hand, **ask)
            infill = post(http, "/infill", input_prefix="One ", input_suffix=" three", **ask)
            suffix = post(http, "/v1/completions", prompt="One ", suffix=" three", temperature=0,
                          max_tokens=4)  # fmt: skip
            extra = post(http, "/infill", input_prefix="One ", input_suffix=" three",
                         input_extra=[{"text": "two", "filename": "f"}], **ask)  # fmt: skip
    finally:
        assert server.stop() == 0
    assert infill["content"] == suffix["choices"][0]["text"] == wanted["content"] != ""
    assert infill["tokens_evaluated"] == suffix["usage"]["prompt_tokens"] == len(by_hand)
    assert extra["tokens_evaluated"] > len(by_hand)
