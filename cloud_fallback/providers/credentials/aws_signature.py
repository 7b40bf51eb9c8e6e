"""AWS's signature version 4, for Bedrock without a bearer key.

botocore finds the credentials as all AWS tools do (environment, ~/.aws, container, machine), and
signs.
"""

from __future__ import annotations

import importlib.util
import threading
from typing import Any

from spillover.cloud_fallback.errors import AuthFailed
from spillover.cloud_fallback.http.exchange import Exchange, Outgoing
from spillover.cloud_fallback.providers.credentials.credentials import Credentials

SERVICE = "bedrock"
MISSING = (
    "Bedrock without AWS_BEARER_TOKEN_BEDROCK needs botocore: pip install 'spillover[bedrock]'"
)
_NO_CREDENTIALS = (
    "no AWS credentials were found: set AWS_BEARER_TOKEN_BEDROCK, or configure credentials as for "
    "other AWS tools"
)


class AwsSignature(Credentials):
    """Signs requests for one region."""

    def __init__(self, provider: str, region: str) -> None:
        super().__init__(provider)
        self._region = region
        self._lock = threading.Lock()
        self._found: Any = None

    @property
    def problem(self) -> str | None:
        return None if importlib.util.find_spec("botocore") else MISSING

    def headers(self, outgoing: Outgoing, exchange: Exchange) -> dict[str, str]:
        self.check()
        # Not before they are needed: these imports take a fifth of a second.
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest

        signed = AWSRequest(
            method=outgoing.method,
            url=outgoing.url,
            data=outgoing.body,
            headers={"content-type": outgoing.headers.get("content-type", "application/json")},
        )
        SigV4Auth(self._credentials(), SERVICE, self._region).add_auth(signed)
        return {name.lower(): value for name, value in signed.headers.items()}

    def _credentials(self) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.session import Session

        try:
            with self._lock:
                self._found = self._found or Session().get_credentials()
                frozen = self._found and self._found.get_frozen_credentials()
        except (BotoCoreError, ClientError) as error:  # the latter: AWS refuses them, or a role
            raise AuthFailed(self.provider, _NO_CREDENTIALS) from error
        if frozen is None or frozen.access_key is None:
            raise AuthFailed(self.provider, _NO_CREDENTIALS)
        return frozen
