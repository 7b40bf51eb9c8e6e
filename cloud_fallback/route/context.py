"""What belongs to one answer on its route."""

from __future__ import annotations

from collections.abc import Generator

from spillover.cloud_fallback.errors import ConsentRefused, ProviderDeclined
from spillover.cloud_fallback.events import Handoff, HandoffMode, Seam, StreamEvent
from spillover.cloud_fallback.policy.affinity import conversation_key
from spillover.cloud_fallback.policy.reason import Reason
from spillover.cloud_fallback.privacy.consent import Asker, Asking
from spillover.cloud_fallback.providers.cloud_engine import CloudEngine
from spillover.cloud_fallback.route.allowed import Allowed
from spillover.cloud_fallback.route.answer_so_far import AnswerSoFar
from spillover.cloud_fallback.route.joint import Joint
from spillover.cloud_fallback.route.local_side import LocalSide
from spillover.cloud_fallback.route.resources import RouteResources
from spillover.cloud_fallback.route.settings import RouteOptions
from spillover.cloud_fallback.route.stopped import Stopped
from spillover.cloud_fallback.route.watched_stream import WatchedStream
from spillover.cloud_fallback.seam.answer_text import AnswerText
from spillover.cloud_fallback.seam.continuation import Continuation, plan_continuation
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.events import WriterId
from spillover.runtime.request import GenerationRequest

RUNAWAY = 2
"""A provider that wrote this many times the limit, in words, ignores the limit."""


class RequestContext:
    """Used by the thread that iterates the answer; other threads may read *stream*."""

    def __init__(
        self,
        resources: RouteResources,
        local: LocalSide,
        request: GenerationRequest,
        options: RouteOptions,
        allowed: Allowed,
        cancellation: Cancellation,
    ) -> None:
        self.resources = resources
        self.local = local
        self.request = request
        self.options = options
        self.allowed = allowed
        self.cancellation = cancellation
        self.mode: HandoffMode = options.mode or local.mode
        self.answer = AnswerSoFar(request)
        self.writer = local.writer
        """Who writes now."""
        self.stream: WatchedStream | None = None
        """The local stream that is running now."""
        self.granted: set[str] = set()
        """Providers that the user has consented to, for this answer."""
        self.conversation = (
            conversation_key(request.messages, options.owner) if request.messages else None
        )
        roles = [message.role for message in request.messages]
        # Many clients let the assistant greet the user first: that answers nothing.
        self._goes_on = "user" in roles and "assistant" in roles[roles.index("user") :]
        name = self.conversation.hex() if self.conversation else None
        self.asking = Asking(
            resources.consents,
            Asker(answer_id=options.id, conversation=name, owner=options.owner),
            resources.settings.consent_timeout_s,
        )

    def begin(self) -> None:
        """The answer begins. A conversation that starts again with the same words is a new one."""
        if self.conversation is not None and not self._goes_on:
            self.resources.consents.forget(self.conversation.hex())

    @property
    def id(self) -> str:
        return self.options.id

    @property
    def now(self) -> float:
        return self.resources.clock()

    # --- the route --------------------------------------------------------------------------

    def reason_to_begin_in_cloud(self) -> Stopped | None:
        """Why the answer begins in the cloud; None: it begins here."""
        if self.allowed.first == "cloud":
            return Stopped(reason=Reason(code="user", is_hard=True, keep_chars=0), at=self.now)
        if self.own_provider is not None and not self.request.is_background:
            return Stopped(reason=Reason(code="sticky"), at=self.now)
        return None

    def providers(self) -> list[CloudEngine]:
        """The conversation's own provider first, then in the owner's order."""
        own = self.own_provider
        return sorted(self.resources.providers, key=lambda provider: provider.name != own)

    @property
    def own_provider(self) -> str | None:
        """The one that the conversation stays with."""
        if self.conversation is None or not self._goes_on:
            return None
        return self.resources.provider_of(self.conversation)

    def stays_with(self, provider: str | None) -> None:
        """Note that *provider* gets the conversation's next turn; None: the local model. What is
        asked beside it, in the background, is no turn."""
        if self.conversation is None or self.request.is_background:
            return
        if provider is None:
            self.resources.returned(self.conversation)
        else:
            self.resources.stays_with(self.conversation, provider, self.local.policy_settings)

    @property
    def may_go_to_cloud(self) -> bool:
        """Whether a provider could still continue: half a tool call can be neither continued nor
        taken back."""
        return self._may_go(self.answer.remaining_tokens)

    def may_continue(self, stopped: Stopped) -> bool:
        """Whether one could after *stopped*. An answer that has all of max_tokens is over, unless
        the user is asked for another one, and the client takes it back."""
        answer = self.answer
        takes_back = self.must_ask and self.options.may_replace
        n_bad = stopped.bad_chars if takes_back else 0
        return self._may_go(answer.tokens_left(answer.n_chars - n_bad))

    def _may_go(self, tokens_left: int | None) -> bool:
        answer = self.answer
        is_over = answer.began_tool_call or tokens_left == 0
        return not is_over and answer.n_handoffs < self.resources.settings.max_handoffs

    @property
    def handoff_problem(self) -> str | None:
        """Why no provider can continue the answer now; None: one can be asked."""
        if self.resources.consents.is_kept_local(self.id):
            return "its user keeps it on this device"
        if self.writer.origin == "cloud":
            return f"{self.writer.provider} writes it already"
        if self.answer.n_handoffs >= self.resources.settings.max_handoffs:
            return "it has changed its writer as often as max_handoffs allows"
        if not self.local.policy_settings.is_on("user"):
            return "the owner has switched off handoffs by the user (switched_off)"
        if self.stream is None:
            return "the local model is not writing it now"
        if self.stream.is_asking:
            return "its user is being asked already whether it may be handed over"
        return self.resources.problem()

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
        self.resources.journal.handoff(self.id, event, owner=self.options.owner)
        return event

    # --- the user ---------------------------------------------------------------------------

    @property
    def must_ask(self) -> bool:
        """Whether nothing may leave without the user's consent."""
        return self.allowed.cloud == "ask"

    def consent(self, provider: str, reason: Reason) -> bool:
        """Whether *provider* may go on; False: the user has to be asked. Raises ConsentRefused."""
        if self.allowed.cloud == "never" or self.resources.consents.is_kept_local(self.id):
            raise ConsentRefused("the answer must stay on the device")
        if self.request.n_images and not self.local.policy_settings.is_on("modality"):
            raise ConsentRefused("images stay on this device: modality is switched off")
        if not self.must_ask or provider in self.granted:
            return True
        known = self.asking.known(provider)
        if known is False:
            raise ProviderDeclined(f"the user does not want answers by {provider}")
        if known is None and self.asking.has_refused(reason.code):
            raise ConsentRefused("the user has refused this reason earlier in the conversation")
        return known is True

    def is_granted(self, reason: Reason) -> bool:
        """Whether the provider that comes first may go on without a question."""
        providers = self.providers()
        try:
            return bool(providers) and self.consent(providers[0].name, reason)
        except ConsentRefused:
            return False

    def end_question(self) -> Generator[StreamEvent]:
        """Note the reply to the open question, if there is one, or that nobody waits for it."""
        question, answered = self.asking.question, self.asking.close()
        if question is None or answered is None:
            return
        if answered.granted:
            self.granted.add(question.provider)
        yield answered

    # --- the text ---------------------------------------------------------------------------

    def text(self, withheld: str = "") -> AnswerText:
        """The answer so far for the next writer; *withheld*: good text that was not sent yet."""
        can_replace = self.options.may_replace
        text = AnswerText(self.request.stop, sent=self.answer.text, can_replace=can_replace)
        text.feed(withheld)
        return text

    def text_now(self) -> str:
        """The answer as it was sent so far, without what the local model's stream holds back; for
        other threads than that of the answer."""
        text = AnswerText(self.request.stop, sent=self.answer.snapshot())
        return text.said

    def plan(self, provider: CloudEngine, stopped: Stopped, said: str) -> Continuation:
        """What *provider* would be asked after *said*. Raises CannotContinue."""

        def within(tokens_left: int | None) -> Continuation:
            if tokens_left is None and provider.hides_reasoning:
                # Nobody could see that it passes a limit, and end it.
                is_limited = not self.resources.budget.settings.is_unlimited
                tokens_left = self.max_cloud_tokens if is_limited else None
            return plan_continuation(
                self.request,
                said,
                mode="continue" if self.mode == "at_turn" else self.mode,
                prefill=provider.may_prefill(),
                can_replace=self.options.may_replace,
                keep_chars=len(said) - stopped.bad_chars if stopped.bad_chars else None,
                tokens_left=tokens_left,
                reasoning_reserve=provider.settings.reasoning_reserve,
            )

        left = self.answer.remaining_tokens
        # At first as if something were left: what is taken back is only known then.
        plan = within(None if left is None else max(left, 1))
        return within(self.answer.tokens_left(plan.keep_chars)) if plan.takes_back else plan

    def joint(
        self,
        plan: Continuation,
        text: AnswerText,
        at: float,
        *,
        limits: bool = False,
        announces: bool = True,
    ) -> Joint:
        """Joins the next writer's text to *text*. *limits*: it may write more than is left.
        *announces*: it is another writer, so a Seam event comes before its text."""
        return Joint(
            plan,
            text,
            seq=self.answer.n_handoffs,
            tokens_left=self._limit(plan) if limits else None,
            triggered_at=at,
            clock=self.resources.clock,
            announces=announces,
        )

    def _limit(self, plan: Continuation) -> int | None:
        """A provider that was asked for no more than the answer counts its tokens better than we
        can: it is only stopped if it does not end."""
        left = self.answer.remaining_tokens
        return RUNAWAY * left if left is not None and plan.join == "fresh" else left

    @property
    def max_cloud_tokens(self) -> int:
        """A provider is stopped after this many tokens, including reasoning."""
        most = self.resources.settings.max_cloud_tokens
        return max(most, RUNAWAY * (self.request.max_tokens or 0))

    # --- the record -------------------------------------------------------------------------

    def sent(self, event: StreamEvent) -> None:
        """Note that *event* goes to the client."""
        self.answer.sent(event)
        if isinstance(event, Seam):
            self.resources.journal.seam(self.id, event)

    def record_legs(self) -> None:
        """Record what the answer cost, if it was handed over."""
        if self.answer.n_handoffs:
            self.resources.journal.legs(self.id, self.answer.legs)
