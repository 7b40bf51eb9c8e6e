"""The owner's settings for the cloud."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Self

from msgspec import Meta, Struct, field

from spillover.cloud_fallback.policy.settings import NO_FACTS, ModelFacts, PolicySettings
from spillover.cloud_fallback.privacy.settings import PrivacySettings
from spillover.cloud_fallback.providers.settings import ProviderSettings
from spillover.cloud_fallback.route.allowed import Fallback, Routing
from spillover.cloud_fallback.route.settings import RouteSettings
from spillover.cloud_fallback.spending.limits import BudgetSettings
from spillover.runtime.checked import checked
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.events import Origin
from spillover.runtime.setting_help import Help, NoSetting, Table


class CloudSettings(Struct, frozen=True, kw_only=True):
    """Settings of a Router."""

    fallback: Annotated[
        Fallback,
        Help(
            "Whether the cloud may take over an answer; ask means only with your consent.",
            flag="--fallback",
        ),
    ] = "never"
    fallback_unasked: Annotated[
        Fallback,
        Help("What fallback = ask means for clients that cannot show a question."),
    ] = "never"
    """"ask": they are asked all the same, because somebody else answers."""
    prefer: Annotated[Origin, Help("Who writes first, if both may.", flag="--prefer")] = "local"
    route: RouteSettings = field(default_factory=RouteSettings)
    proxy: Annotated[
        str,
        Meta(
            pattern=r"^(http://[^@\s/]+/?)?\Z",
            description="an address such as http://host:3128, without a user, or an empty text",
        ),
        Help("HTTP proxy for providers; HTTP_PROXY and the like are ignored.", default="none"),
    ] = ""
    """"http://host:port". Providers on the LAN are reached without it."""
    data_dir: Annotated[
        Path | None,
        Help(
            "Folder for calibrations and for records of spending and handoffs.",
            default="the user's data folder",
        ),
    ] = None
    providers: Annotated[tuple[ProviderSettings, ...], Table()] = field(default=(), name="provider")
    """In the order in which they are asked; those on the LAN go first."""
    policy: Annotated[PolicySettings, Table()] = field(default_factory=PolicySettings)
    facts: Annotated[ModelFacts, NoSetting()] = NO_FACTS
    """What is known of the local model besides what its file says."""
    privacy: Annotated[PrivacySettings, Table()] = field(default_factory=PrivacySettings)
    budget: Annotated[BudgetSettings, Table()] = field(default_factory=BudgetSettings)

    @property
    def routing(self) -> Routing:
        return Routing(fallback=self.fallback, prefer=self.prefer, unasked=self.fallback_unasked)

    def checked(self) -> Self:
        """These settings, if they are consistent and their patterns are valid.

        Raises InvalidRequest; its *param* is the place, such as "budget.providers".
        """
        self = checked(self)  # with structs where a program gave dicts
        names = [provider.name for provider in self.providers]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InvalidRequest(f"two providers have the name {twice}", "provider")
        unknown = next((name for name in self.budget.providers if name not in names), None)
        if unknown is not None:
            raise InvalidRequest(f"no provider has the name {unknown}", "budget.providers")
        if self.policy.rules:
            from spillover.cloud_fallback.policy.prompt import check_rules  # loads a library

            with _within("policy"):
                check_rules(self.policy)
        if self.privacy != PrivacySettings():
            from spillover.cloud_fallback.privacy import finder  # loads libraries

            with _within("privacy"):
                finder.check(self.privacy)
        return self

    @property
    def folder(self) -> Path:
        """Where calibrations and records are kept."""
        if self.data_dir is not None:
            return self.data_dir
        import platformdirs  # slow, and not needed when the folder is named

        return platformdirs.user_data_path("spillover", appauthor=False)

    @property
    def ledger(self) -> Path:
        """The file that records spending and handoffs."""
        return self.folder / "ledger.sqlite3"


@contextmanager
def _within(table: str) -> Generator[None]:
    """Put *table* before the param of an InvalidRequest."""
    try:
        yield
    except InvalidRequest as error:
        raise InvalidRequest(str(error), f"{table}.{error.param}") from error
