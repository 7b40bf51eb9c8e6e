"""A desk that asks."""

from __future__ import annotations

import pytest

from tests.cloud_fallback.route.conftest import MakeDesk
from tests.cloud_fallback.route.consent.asking import ASKING, REST
from tests.cloud_fallback.route.desk import Desk
from tests.fakes.fake import Fake
from tests.fakes.script import Act


@pytest.fixture
def desk(make_desk: MakeDesk, fake: Fake) -> Desk:
    fake.script(Act(rest=REST))
    return make_desk(fake, fallback="ask", settings=ASKING)
