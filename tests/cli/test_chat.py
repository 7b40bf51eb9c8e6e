"""The chat, with an engine that answers from a list."""

from __future__ import annotations

import signal
import stat
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import cast

import msgspec
import pytest

from spillover.cloud_fallback.route.allowed import Routing
from spillover.edge_server.commands.chat.chat import Chat
from spillover.edge_server.commands.chat.commands import chat_commands, is_command, run_command
from spillover.edge_server.commands.chat.line_input import read_message
from spillover.edge_server.commands.chat.session import ChatSession
from spillover.edge_server.commands.output import AnswerOutput
from spillover.edge_server.commands.routed import RoutedEngine
from spillover.edge_server.errors import ConfigError
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.errors import ContextOverflow, EngineError
from spillover.runtime.events import (
    Delta,
    EngineEvent,
    Finished,
    FinishReason,
    ReasoningDelta,
    Timings,
    Usage,
)
from spillover.runtime.request import GenerationRequest
from tests.answers import FAKE_CARD


def finished(reason: FinishReason = "stop", n_prompt: int = 10) -> Finished:
    usage = Usage(prompt_tokens=n_prompt, cached_tokens=0, completion_tokens=2)
    return Finished(
        reason=reason, usage=usage, timings=Timings(queue_ms=0, prefill_ms=0, decode_ms=0)
    )


class ListEngine:
    """Answers with one list of events after the other; raises an exception in a list."""

    card = FAKE_CARD
    name = "fake"

    def __init__(self, *answers: Iterable[EngineEvent | Exception]) -> None:
        self.answers = iter(answers)
        self.requests: list[GenerationRequest] = []
        self.next_routing = Routing()
        self.routings: list[Routing] = []
        """What the user wanted of each answer."""
        self.problem: str | None = None
        self.notes: AnswerOutput | None = None

    def cloud_problem(self) -> str | None:
        return self.problem

    def stream(
        self, request: GenerationRequest, cancellation: Cancellation | None = None
    ) -> Generator[EngineEvent]:
        self.requests.append(request)
        self.routings.append(self.next_routing)
        self.next_routing = Routing()
        for event in next(self.answers):
            if isinstance(event, Exception):
                raise event
            yield event


def answer(text: str) -> list[EngineEvent]:
    return [Delta(text=text), finished()]


def chat(engine: ListEngine, *lines: str | BaseException) -> tuple[int, ChatSession]:
    """Type *lines*; the exit code and the session at the end."""
    typed = iter(lines)

    def read_line(_prompt: str) -> str:
        line = next(typed, None)
        if isinstance(line, BaseException):
            raise line
        if line is None:
            raise EOFError
        return line

    session = ChatSession()
    return Chat(cast(RoutedEngine, engine), session, read_line).run(), session


def contents(session: ChatSession) -> list[str]:
    return [turn.content for turn in session.turns]


def lines_of(*lines: str) -> Iterator[str]:
    return iter(lines)


def test_each_question_is_sent_with_the_conversation_so_far(
    capsys: pytest.CaptureFixture[str],
) -> None:
    engine = ListEngine(answer("Hello!"), answer("Max."))
    code, session = chat(engine, "Hi", "Who?")
    assert code == 0
    assert [m.content for m in engine.requests[1].messages] == ["Hi", "Hello!", "Who?"]
    assert contents(session) == ["Hi", "Hello!", "Who?", "Max."]
    assert capsys.readouterr().out == "Hello!\nMax.\n"


def test_reasoning_is_not_sent_back() -> None:
    engine = ListEngine([ReasoningDelta(text="hm"), *answer("4")])
    _, session = chat(engine, "2+2?")
    assert contents(session) == ["2+2?", "4"]


def test_retry_asks_the_last_question_again_and_undo_takes_the_turn_back() -> None:
    engine = ListEngine(answer("a"), answer("b"))
    _, session = chat(engine, "Q", "/retry")
    assert contents(session) == ["Q", "b"]
    assert len(engine.requests[1].messages) == 1
    _, session = chat(ListEngine(answer("a")), "Q", "/undo")
    assert contents(session) == []


@pytest.mark.parametrize("end", [EngineError("it broke"), finished("cancelled")])
def test_a_retry_without_a_word_keeps_the_answer(end: EngineEvent | Exception) -> None:
    # Both the answer and its question were gone.
    _, session = chat(ListEngine(answer("a"), [end], answer("b")), "Q", "/retry", "R")
    assert contents(session) == ["Q", "a", "R", "b"]


def test_an_answer_that_breaks_off_ends_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    # The error stood behind its last word.
    chat(ListEngine([Delta(text="Once"), EngineError("it broke")]), "Q")
    assert capsys.readouterr().out == "Once\n"


def test_a_full_context_says_what_to_do_and_keeps_the_conversation(
    capsys: pytest.CaptureFixture[str],
) -> None:
    engine = ListEngine(answer("a"), [ContextOverflow(70, 64, "fake")])
    code, session = chat(engine, "Q", "too long")
    assert contents(session) == ["Q", "a"]
    said = capsys.readouterr().err
    assert "/new starts over" in said
    assert code == 1


def test_an_answer_that_filled_the_context_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    chat(ListEngine([Delta(text="a"), finished("length", n_prompt=62)]), "Q")
    assert "the context is full" in capsys.readouterr().err


def test_ctrl_c_stops_the_answer_and_keeps_its_text(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Interrupted(ListEngine):
        def stream(
            self, request: GenerationRequest, cancellation: Cancellation | None = None
        ) -> Generator[EngineEvent]:
            assert cancellation is not None
            yield Delta(text="Once")
            signal.raise_signal(signal.SIGINT)
            while not cancellation.cancelled:
                pass
            yield finished("cancelled")

    code, session = chat(Interrupted(), "Q", "/exit")
    assert contents(session) == ["Q", "Once"]
    assert code == 0
    assert "(stopped)" in capsys.readouterr().err


def test_ctrl_c_at_the_prompt_shows_a_hint_and_leaves_the_second_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    chat(ListEngine(), KeyboardInterrupt(), KeyboardInterrupt(), AssertionError())
    assert "type /exit" in capsys.readouterr().err


def test_an_unknown_command_gets_a_guess(capsys: pytest.CaptureFixture[str]) -> None:
    chat(ListEngine(), "/sytem x", "/zzz")
    said = capsys.readouterr().err
    assert "did you mean /system?" in said
    assert "no command /zzz: /help lists" in said


@pytest.mark.parametrize("command", ["/exit", "/quit", "/bye", "/q"])
def test_the_exit_commands_of_other_programs_work_too(command: str) -> None:
    assert run_command(ChatSession(), command).leave


def test_help_names_every_command() -> None:
    text = run_command(ChatSession(), "/help").text
    assert all(command.usage in text for command in chat_commands().values())


def test_two_slashes_start_a_message() -> None:
    assert is_command("/new")
    engine = ListEngine(answer("a"))
    _, session = chat(engine, "//etc is what?")
    assert contents(session)[0] == "/etc is what?"


def test_settings_of_the_answer_are_checked() -> None:
    session = ChatSession()
    run_command(session, "/set temperature 0.5")
    run_command(session, "/set max_tokens 20")
    request_values = (session.sampling.temperature, session.max_tokens)
    assert request_values == (0.5, 20)
    with pytest.raises(ConfigError, match="temperature must be a number from"):
        run_command(session, "/set temperature hot")
    with pytest.raises(ConfigError, match="did you mean temperature"):
        run_command(session, "/set temprature 1")
    assert "temperature             0.5\n" in run_command(session, "/set").text


def test_values_are_shown_as_they_are_typed() -> None:
    shown = run_command(ChatSession(), "/set").text.splitlines()
    assert "temperature             0.8" in shown
    assert 'dry_sequence_breakers   "\\n", :, ", *' in shown


def test_the_system_message_outlives_the_conversation() -> None:
    session = ChatSession()
    run_command(session, "/system Be brief.")
    session.add_question("Q")
    run_command(session, "/new")
    session.add_question("R")
    assert [m.content for m in session.request().messages] == ["Be brief.", "R"]


def test_a_saved_conversation_continues_where_it_stopped(tmp_path: Path) -> None:
    _, session = chat(ListEngine(answer("a")), "/system S", "/set top_k 3", "Q")
    run_command(session, f"/save {tmp_path}/chat.json")
    loaded = ChatSession()
    run_command(loaded, f"/load {tmp_path}/chat.json")
    assert (loaded.system, loaded.turns, loaded.sampling) == (
        session.system,
        session.turns,
        session.sampling,
    )
    loaded.save(tmp_path / "chat.json")


def test_only_the_user_can_read_a_saved_conversation(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    session = ChatSession()
    run_command(session, f"/save {path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    run_command(session, f"/save {path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_folder_of_an_unknown_user_does_not_end_the_chat() -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        run_command(ChatSession(), "/save ~nobody-knows-this-user/chat.json")


def test_a_file_of_something_else_is_neither_overwritten_nor_loaded(tmp_path: Path) -> None:
    path = tmp_path / "notes.json"
    path.write_text('{"mine": 1}')
    with pytest.raises(ConfigError, match="exists already"):
        run_command(ChatSession(), f"/save {path}")
    with pytest.raises(ConfigError, match="not a saved conversation"):
        run_command(ChatSession(), f"/load {path}")
    assert msgspec.json.decode(path.read_bytes()) == {"mine": 1}


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["one"], "one"),
        (["one\\", "two\\", "three"], "one\ntwo\nthree"),
        (['"""one', "", 'two"""'], "one\n\ntwo"),
        (['"""', "one", '"""'], "one"),
        (['"""all in one"""'], "all in one"),
    ],
)
def test_a_message_may_span_several_lines(typed: list[str], message: str) -> None:
    lines = lines_of(*typed)
    assert read_message(lambda _prompt: next(lines)) == message


def test_what_is_not_utf_8_is_no_reason_to_refuse_a_message() -> None:
    assert read_message(lambda _prompt: "caf\udce9") == "caf\ufffd"


def test_escape_sequences_of_a_loaded_file_do_not_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "chat.json"
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "\x1b]0;x\x07a"}]
    path.write_bytes(msgspec.json.encode({"messages": turns}))
    chat(ListEngine(), f"/load {path}")
    assert "\x1b" not in capsys.readouterr().err
