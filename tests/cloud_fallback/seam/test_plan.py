"""What the next writer is asked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from spillover.cloud_fallback.errors import CannotContinue
from spillover.cloud_fallback.seam.continuation import plan_continuation
from spillover.cloud_fallback.seam.limits import tokens_left
from spillover.cloud_fallback.seam.notices import anchor_of, quoted
from spillover.runtime.request import (
    GenerationRequest,
    JsonObject,
    Message,
    NamedTool,
    Tool,
    ToolCall,
)
from spillover.runtime.sampling import Sampling
from spillover.runtime.text.folding import fold
from spillover.runtime.text.graphemes import is_boundary
from spillover.runtime.text.languages import language_of
from tests.cloud_fallback.seam.corpus import (
    ALL,
    BRACES,
    CHORUS,
    EMOJI,
    MEAGRE,
    PROSE,
    TABLE,
    Client,
)

SYSTEM = Message(role="system", content="Be brief.")
ASKED = Message(role="user", content="Tell me about the fox, please.")
REQUEST = GenerationRequest(
    messages=(SYSTEM, ASKED),
    max_tokens=300,
    stop=("\n\nUser:",),
    n=2,
    logprobs=3,
    ignore_eos=True,
    sampling=Sampling(temperature=0.3, seed=7, logit_bias={5: 1.0}),
    tools=(Tool(name="weather"),),
    tool_choice="required",
)
SAID = PROSE[:150]


def test_the_answer_so_far_comes_with_a_plain_sentence_of_the_users() -> None:
    request = plan_continuation(REQUEST, SAID).request
    assert [message.role for message in request.messages] == ["system", "user", "assistant", "user"]
    assert request.messages[:2] == REQUEST.messages
    assert request.messages[2].content == SAID.rstrip()
    assert f"«{anchor_of(SAID)}»" in request.messages[3].content
    assert request.messages[3].content.startswith("My connection dropped while you were writing")
    assert not request.continue_final_message


def test_requests_that_only_the_local_model_understands_stay_local() -> None:
    request = plan_continuation(REQUEST, SAID).request
    assert request.n == 1
    assert request.logprobs is None
    assert not request.ignore_eos
    assert request.sampling == replace(REQUEST.sampling, logit_bias={})
    assert request.stop == ()
    assert request.checked() == request


@pytest.mark.parametrize(
    ("choice", "kept"),
    [("required", "auto"), (NamedTool(name="weather"), "auto"), ("none", "none"), ("auto", "auto")],
)
def test_tools_stay_but_a_call_is_not_forced_in_mid_answer(choice: object, kept: str) -> None:
    request = replace(REQUEST, tool_choice=choice)
    plan = plan_continuation(request, SAID)
    assert plan.request.tools == REQUEST.tools
    assert plan.request.tool_choice == kept
    assert plan_continuation(request, "").request.tool_choice == choice


def test_before_the_first_word_the_request_goes_as_it_is() -> None:
    plan = plan_continuation(replace(REQUEST, n=1), "", tokens_left=300)
    assert plan.join == "fresh"
    assert plan.request.messages == REQUEST.messages
    assert plan.request.stop == REQUEST.stop
    assert plan.request.max_tokens == 300


@pytest.mark.parametrize("said", ["Sure", "  \n", "Hello!\n"])
def test_almost_empty_text_is_started_over(said: str) -> None:
    plan = plan_continuation(REQUEST, said)
    assert plan.join == "restart"
    assert plan.request.messages == REQUEST.messages


def test_a_restarted_answer_includes_the_text_so_far() -> None:
    assert Client(plan_continuation(REQUEST, "Hello"), "Hello").read("Hello there.", [2]) == (
        "Hello there."
    )
    other = Client(plan_continuation(REQUEST, "Hello"), "Hello")
    assert other.read("Good day to you.", [2]) == "Hello\n\nGood day to you."
    assert other.seam.settled == "unverified"
    free = Client(plan_continuation(REQUEST, "Hello", can_replace=True), "Hello")
    assert free.read("Good day to you.", [2]) == "Good day to you."


def test_a_restart_takes_everything_back_where_it_may() -> None:
    plan = plan_continuation(REQUEST, SAID, mode="restart", can_replace=True)
    assert (plan.join, plan.keep_chars, plan.takes_back) == ("fresh", 0, True)
    assert plan.request.messages == REQUEST.messages
    assert plan_continuation(REQUEST, SAID, mode="restart").join == "echo"


def test_prefill_ends_with_the_answer_and_without_white_space() -> None:
    plan = plan_continuation(REQUEST, "The fox is red \n", prefill=True, tokens_left=9)
    assert plan.request.continue_final_message
    assert plan.request.messages[-1] == Message(role="assistant", content="The fox is red")
    assert plan.pending == " \n"
    assert plan.request.max_tokens == 9
    assert plan.request.checked() == plan.request


@given(st.integers(1, len(PROSE)), st.sampled_from(sorted(ALL)), st.data())
def test_a_prefilled_turn_continues_at_any_cut(at: int, name: str, data: st.DataObject) -> None:
    answer = ALL[name]
    at = data.draw(st.integers(1, len(answer)))
    plan = plan_continuation(REQUEST, answer[:at], prefill=True)
    sizes = data.draw(st.lists(st.integers(1, 20), max_size=4))
    assert Client(plan, answer[:at]).read(answer[len(plan.shown) :], sizes) == answer
    if len(fold(plan.shown)) >= 64 and name not in ("chorus", "braces"):
        # A server that repeats the turn first.
        assert Client(plan, answer[:at]).read(answer, sizes) == answer


def test_a_refrain_that_continues_in_a_prefilled_turn_is_not_an_echo() -> None:
    refrain = "Oh the rain in the valley, the rain in the woods, the rain on us all!\n"
    said = refrain + refrain
    client = Client(plan_continuation(REQUEST, said, prefill=True), said)
    assert client.read("\n" + refrain + refrain, [5]) == said + refrain + refrain


def test_a_format_is_kept_by_asking_for_the_whole_answer() -> None:
    plan = plan_continuation(
        replace(REQUEST, response_format=JsonObject()), '{"name": "Ruby', prefill=True
    )
    assert plan.join == "rewrite"
    assert plan.request.response_format == JsonObject()
    assert "character for character" in plan.request.messages[-1].content


def test_a_turn_that_the_client_began_is_part_of_the_answer() -> None:
    begun = replace(
        REQUEST,
        messages=(ASKED, Message(role="assistant", content="Ruby was a very small")),
        continue_final_message=True,
    )
    plan = plan_continuation(begun, " fox with")
    assert plan.request.messages[1].content == "Ruby was a very small fox with"
    client = Client(plan, " fox with")
    assert client.read("Ruby was a very small fox with a red tail.", [4]) == " fox with a red tail."
    first = Client(plan_continuation(begun, ""), "")
    assert first.read("Ruby was a very small fox.", [4]) == " fox."


def test_turns_of_the_assistant_are_never_two_in_a_row() -> None:
    before = Message(role="assistant", content="Ready when you are.")
    plan = plan_continuation(replace(REQUEST, messages=(ASKED, before)), SAID)
    assert [message.role for message in plan.request.messages] == ["user", "assistant", "user"]
    assert plan.request.messages[1].content == f"Ready when you are.\n\n{SAID.rstrip()}"


def test_a_tools_answer_may_stand_before() -> None:
    call = Message(
        role="assistant", content="", tool_calls=(ToolCall(id="1", name="weather", arguments="{}"),)
    )
    result = Message(role="tool", content="rain", tool_call_id="1")
    plan = plan_continuation(replace(REQUEST, messages=(ASKED, call, result)), SAID)
    assert plan.request.messages[:3] == (ASKED, call, result)


# Limits ------------------------------------------------------------------------------------


def test_the_next_writer_has_room_for_the_echo_and_for_thinking() -> None:
    plan = plan_continuation(REQUEST, SAID, tokens_left=3, reasoning_reserve=1000)
    room = plan.request.max_tokens
    assert room is not None
    assert 1003 + len(plan.anchor) // 2 <= room <= 1003 + len(plan.anchor) // 2 + 20
    assert plan_continuation(replace(REQUEST, max_tokens=None), SAID).request.max_tokens is None


def test_tokens_left() -> None:
    assert tokens_left(REQUEST, 297) == 3
    assert tokens_left(REQUEST, 300) == tokens_left(REQUEST, 301) == 0
    assert tokens_left(replace(REQUEST, max_tokens=None), 10**6) is None


# Back to the local model -------------------------------------------------------------------


def test_the_local_model_continues_the_text_of_all_legs() -> None:
    plan = plan_continuation(REQUEST, "Hi \n", target="local", tokens_left=50)
    assert plan.join == "prefill"
    assert plan.request.continue_final_message
    assert plan.request.messages[-1] == Message(role="assistant", content="Hi")
    assert plan.request.max_tokens == 50
    assert plan.request.stop == REQUEST.stop
    assert plan.request.sampling == REQUEST.sampling


def test_the_local_model_continues_a_prompt() -> None:
    text = GenerationRequest(prompt="Once upon a time")
    assert plan_continuation(text, " a fox ", target="local").request.prompt == (
        "Once upon a time a fox"
    )
    ids = GenerationRequest(prompt=(1, 2, 3))
    plan = plan_continuation(ids, " a fox", target="local", tokenize=lambda text: (len(text),))
    assert plan.request.prompt == (1, 2, 3, 6)
    with pytest.raises(CannotContinue):
        plan_continuation(ids, " a fox", target="local")


# Raw prompts -------------------------------------------------------------------------------


def test_a_raw_text_is_sent_as_a_text_to_be_continued() -> None:
    prompt = "Once upon a time there was a fox named Ruby. She"
    plan = plan_continuation(GenerationRequest(prompt=prompt), " lived in the")
    assert plan.request.prompt is None
    (message,) = plan.request.messages
    assert message.role == "user"
    assert message.content.endswith(prompt + " lived in the")
    cloud = plan.anchor + " woods."
    assert Client(plan, " lived in the").read(cloud, [3]) == " lived in the woods."
    whole = prompt + " lived in the woods."
    assert Client(plan, " lived in the").read(whole, [3]) == " lived in the woods."


@pytest.mark.parametrize(
    "request_",
    [
        GenerationRequest(prompt=(1, 2, 3)),
        GenerationRequest(prompt="<|im_start|>user\nHello, who are you?<|im_end|>\n"),
        GenerationRequest(prompt="Give me a JSON document please", response_format=JsonObject()),
        GenerationRequest(prompt="Hi"),
    ],
)
def test_what_another_model_cannot_understand_stays_local(request_: GenerationRequest) -> None:
    with pytest.raises(CannotContinue):
        plan_continuation(request_, "")


# Bad ends ----------------------------------------------------------------------------------

LEAK = "Foxes live in dens. They eat mice and<|im_end|>\n<|im_start|>user\nWhat"


def test_leaked_template_text_is_never_sent() -> None:
    plan = plan_continuation(REQUEST, LEAK, can_replace=True)
    assert plan.kept == "Foxes live in dens."
    assert plan.keep_chars == len(plan.kept)
    assert plan.takes_back
    assert plan.request.messages[2].content == "Foxes live in dens."
    assert "<|" not in "".join(message.content for message in plan.request.messages)


def test_bad_text_that_cannot_be_taken_back_is_left_behind() -> None:
    plan = plan_continuation(REQUEST, LEAK)
    assert (plan.keep_chars, plan.takes_back) == (len(LEAK), False)
    assert plan.kept + plan.left_behind == LEAK
    client = Client(plan, LEAK)
    assert client.read(f"{plan.anchor} They eat mice.", [3]) == LEAK + "\n\nThey eat mice."
    assert client.seam.settled == "unverified"


def test_a_loop_is_cut_where_the_policy_says() -> None:
    said = "I like foxes. They are red. They are red. They are red. They are"
    plan = plan_continuation(REQUEST, said, can_replace=True, keep_chars=30)
    assert plan.kept == "I like foxes. They are red."


def test_bad_text_is_started_over() -> None:
    plan = plan_continuation(REQUEST, "<|im_start|><|im_start|>")
    assert plan.request.messages == REQUEST.messages
    client = Client(plan, "<|im_start|><|im_start|>")
    assert client.read("\nFoxes.", [2]) == "<|im_start|><|im_start|>\n\nFoxes."


def test_half_a_tag_may_turn_out_to_be_text() -> None:
    said = "In XML you write <thi"
    plan = plan_continuation(REQUEST, said)
    assert plan.request.messages[2].content == "In XML you write"
    assert Client(plan, said).read("In XML you write <thing>.", [3]) == "In XML you write <thing>."
    assert plan_continuation(REQUEST, said, can_replace=True).kept == "In XML you write "


# Anchors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(ALL))
def test_anchors_end_the_text_and_begin_with_a_whole_character(name: str) -> None:
    for at in range(8, len(ALL[name])):
        text = ALL[name][:at].rstrip()
        anchor = anchor_of(text)
        assert text.endswith(anchor)
        assert not anchor[0].isspace()
        assert is_boundary(text, len(text) - len(anchor))
        units = fold(text)
        assert units.count(fold(anchor)) == 1
        assert len(anchor) >= min(40, len(text.lstrip()))


def test_anchors_of_prose_are_short_and_begin_with_a_word() -> None:
    for at in range(70, len(PROSE)):
        anchor = anchor_of(PROSE[:at])
        assert len(anchor) <= 60
        assert PROSE[at - len(PROSE[:at]) + PROSE[:at].rstrip().index(anchor) - 1].isspace()


@pytest.mark.parametrize("text", [CHORUS, TABLE, BRACES, EMOJI, MEAGRE])
def test_an_anchor_that_occurs_twice_gets_longer(text: str) -> None:
    twice = text + "\n" + text
    assert fold(twice).count(fold(anchor_of(twice))) == 1 or len(anchor_of(twice)) >= 240


def test_an_anchor_never_begins_within_a_number() -> None:
    number = "4111 1111 1111 1111"
    for n in range(60):
        anchor = anchor_of(
            f"Of course. The number of the card is {number} {'and so on ' * 6}"[: 56 + n]
        )
        assert number in anchor or "1111" not in anchor


@pytest.mark.parametrize("anchor", ["plain", "with « in", "« » “ ”", "«“⟦<<<[[[", "»"])
def test_quotes_around_an_anchor_do_not_occur_in_it(anchor: str) -> None:
    text = quoted(anchor)
    opening, closing = text.split(anchor) if text.count(anchor) == 1 else ("", "")
    assert opening.strip() not in anchor or not opening.strip()
    assert closing.strip() not in anchor or not closing.strip()


# Languages ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "What is the best way to cook rice, and how long does it take?"),
        ("de", "Was ist der beste Weg, um Reis zu kochen, und wie lange dauert das?"),
        ("fr", "Quelle est la meilleure façon de cuire le riz et combien de temps faut-il ?"),
        ("es", "¿Cuál es la mejor manera de cocinar el arroz y cuánto tiempo se tarda?"),
        ("it", "Qual è il modo migliore per cuocere il riso e quanto tempo ci vuole?"),
        ("pt", "Qual é a melhor maneira de cozinhar o arroz e quanto tempo você leva?"),
        ("nl", "Wat is de beste manier om rijst te koken en hoe lang duurt het?"),
        ("pl", "Jak najlepiej ugotować ryż i czy to prawda, że nie trzeba go płukać?"),
        ("tr", "Pirinç pişirmenin en iyi yolu nedir ve bu ne kadar sürer, çok mu?"),
        ("ru", "Как лучше всего варить рис и сколько времени это занимает?"),
        ("zh", "煮米饭最好的方法是什么"),
        ("ja", "ご飯を炊く一番いい方法は何ですか"),
        ("ko", "밥을 짓는 가장 좋은 방법은 무엇인가요"),
        ("ar", "ما هي أفضل طريقة لطهي الأرز؟"),
        ("hi", "चावल पकाने का सबसे अच्छा तरीका क्या है"),
        ("en", "Once upon a time, in a sunny valley, there lived a proud fox with a red tail."),
        ("en", "42"),
        ("en", "def f(x): return x"),
    ],
)
def test_the_notice_is_in_the_conversations_language(language: str, text: str) -> None:
    assert language_of(text) == language
    asked = GenerationRequest(messages=(Message(role="user", content=text),))
    plan = plan_continuation(asked, text)
    assert plan.language == language
    if plan.join == "echo":
        notice = plan.request.messages[-1].content
        assert language_of(notice.replace(plan.anchor, "")) == language
