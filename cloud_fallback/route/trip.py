"""One answer on its way from writer to writer: what all of them need to know."""

from __future__ import annotations

from spillover.cloud_fallback.events import Handoff, HandoffMode
from spillover.cloud_fallback.policy.affinity import conversation_key
from spillover.cloud_fallback.policy.reason import Reason
from spillover.cloud_fallback.route.answer import Answer
from spillover.cloud_fallback.route.joint import Joint
from spillover.cloud_fallback.route.parts import Parts
from spillover.cloud_fallback.route.routing import Allowed
from spillover.cloud_fallback.route.settings import RouteOptions
from spillover.cloud_fallback.seam.answer_text import AnswerText
from spillover.cloud_fallback.seam.continuation import Continuation
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.events import WriterId
from spillover.runtime.request import GenerationRequest

RUNAWAY = 2
"""So many times its limit in words is more than any answer has that keeps to it."""


class Trip:
    """Used by the one thread that iterates the answer."""

    def __init__(
        self,
        parts: Parts,
        request: GenerationRequest,
        call: RouteOptions,
        allowed: Allowed,
        cancellation: Cancellation,
    ) -> None:
        self.parts = parts
        self.request = request
        self.call = call
        self.allowed = allowed
        self.cancellation = cancellation
        self.mode: HandoffMode = call.mode or parts.settings.mode
        self.answer = Answer(request)
        self.writer = parts.local_writer
        self.conversation = (
            conversation_key(request.messages, call.owner) if request.messages else None
        )
        if self.conversation is not None and not self._goes_on:
            parts.trust.consent.forget(self.conversation.hex())
        self.granted: set[str] = set()
        """Providers that the user has said yes to, for this answer."""

    @property
    def now(self) -> float:
        return self.parts.clock()

    @property
    def home(self) -> str | None:
        """The provider that the conversation stays with after a handoff."""
        if self.conversation is None or not self._goes_on:
            return None
        return self.parts.home(self.conversation)

    @property
    def _goes_on(self) -> bool:
        """False: it has just begun. One that begins anew with the same words is another one."""
        return any(message.role == "assistant" for message in self.request.messages)

    def sticks(self, provider: str) -> None:
        """*provider* has written the end of the answer: the conversation stays with it, unless
        the owner wants to have each turn begin here."""
        if self.parts.policy_settings.is_on("sticky"):
            self.stays_with(provider)

    def stays_with(self, provider: str | None) -> None:
        """The conversation's next turn is *provider*'s; None: the local model's."""
        if self.conversation is None:
            return
        if provider is None:
            self.parts.returned(self.conversation)
        else:
            self.parts.handed_over(self.conversation, provider)

    def text(self, withheld: str = "") -> AnswerText:
        """The answer so far for the next writer; *withheld*: said, but not sent yet."""
        may_replace = self.call.may_replace
        text = AnswerText(self.request.stop, sent=self.answer.text, can_replace=may_replace)
        text.feed(withheld)
        return text

    def joint(
        self,
        plan: Continuation,
        text: AnswerText,
        at: float,
        *,
        limits: bool,
        tells: bool = True,
    ) -> Joint:
        """Joins the next writer's text to *text*; *limits*: it may write more than is left;
        *tells*: it is another writer, so that the client hears of the seam."""
        return Joint(
            plan,
            text,
            seq=self.answer.n_handoffs,
            tokens_left=self._limit(plan) if limits else None,
            triggered_at=at,
            clock=self.parts.clock,
            tells=tells,
        )

    @property
    def most_cloud_tokens(self) -> int:
        """After so many of one provider's tokens, reasoning included, it has no end."""
        return max(self.parts.settings.max_cloud_tokens, RUNAWAY * (self.request.max_tokens or 0))

    def _limit(self, plan: Continuation) -> int | None:
        """A provider that was asked for no more than the answer keeps count itself, better than
        we can: only one that has no end is stopped."""
        left = self.answer.remaining_tokens
        return RUNAWAY * left if left is not None and plan.join == "fresh" else left

    def hand_over(
        self, target: WriterId, reason: Reason, *, keep_chars: int, redactions: int = 0
    ) -> Handoff:
        """*target* writes from now on."""
        self.answer.n_handoffs += 1
        event = Handoff(
            seq=self.answer.n_handoffs,
            reason=reason.code,
            source=self.writer,
            target=target,
            mode=self.mode,
            keep_chars=keep_chars,
            signals=reason.signals,
            redactions=redactions,
        )
        self.writer = target
        self.parts.journal.handoff(self.call.id, event, owner=self.call.owner)
        return event
