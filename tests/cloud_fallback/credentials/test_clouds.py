"""Google's tokens and AWS's signatures, made with the clouds' own libraries as extras."""

from __future__ import annotations

import hashlib
import hmac
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from spillover.cloud_fallback.errors import AuthFailed, ProviderError
from spillover.cloud_fallback.http.client import Http
from spillover.cloud_fallback.providers.build import build_engine
from spillover.cloud_fallback.providers.cloud_engine import CloudEngine
from spillover.cloud_fallback.providers.keys import Keys
from tests.answers import ask, text_of
from tests.cloud_fallback.providers import settings_for
from tests.fakes.fake import Fake
from tests.fakes.script import Act, Recorded
from tests.in_memory_ring import InMemoryRing

STS_PATH = "/v2/chat"
"""Where the fake answers by its script."""
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


@pytest.fixture(autouse=True)
def no_cloud_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)


def engine(fake: Fake, http: Http, dialect: Any, **fields: Any) -> CloudEngine:
    """Without any key."""
    settings = settings_for(fake, dialect, **fields)
    return build_engine(settings, keys=Keys({}, InMemoryRing()), http=http)


# AWS


def expected_signature(request: Recorded, region: str) -> str:
    """The signature by AWS's description of version 4, without its library."""
    names = request.headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0]
    canonical = "\n".join(
        [
            "POST",
            quote(request.path, safe="/~"),
            "",
            *(f"{name}:{request.headers[name]}" for name in names.split(";")),
            "",
            names,
            hashlib.sha256(request.body.encode()).hexdigest(),
        ]
    )
    stamp = request.headers["x-amz-date"]
    scope = f"{stamp[:8]}/{region}/bedrock/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = f"AWS4{SECRET}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
    return hmac.digest(key, text.encode(), "sha256").hex()


@pytest.mark.parametrize("token", [None, "a-session-token"])
def test_a_request_to_bedrock_is_signed(
    fake: Fake, http: Http, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    if token:
        monkeypatch.setenv("AWS_SESSION_TOKEN", token)
    bedrock = engine(fake, http, "bedrock", region="eu-central-1")
    assert bedrock.problem is None
    assert text_of(bedrock.stream(ask("Grüße"))) == "Hello from the cloud."
    (request,) = fake.requests
    sent = request.headers["authorization"]
    assert "Credential=AKIAEXAMPLE/" in sent
    assert sent.endswith(f"Signature={expected_signature(request, 'eu-central-1')}")
    assert request.headers.get("x-amz-security-token") == token
    assert SECRET not in str(request.headers)


def test_without_credentials_of_aws_the_advice_names_the_variable(fake: Fake, http: Http) -> None:
    with pytest.raises(AuthFailed, match="AWS_BEARER_TOKEN_BEDROCK"):
        list(engine(fake, http, "bedrock").stream(ask()))
    assert fake.record.accepted == 0


def test_a_role_that_aws_refuses_is_a_matter_of_credentials(
    fake: Fake, http: Http, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It passed for a defect of Spillover, and was tried anew with each answer."""
    config = tmp_path / "config"
    config.write_text(
        "[profile edge]\nrole_arn = arn:aws:iam::123456789012:role/edge\nsource_profile = base\n"
        "region = eu-central-1\n"
        f"[profile base]\naws_access_key_id = AKIAEXAMPLE\naws_secret_access_key = {SECRET}\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "edge")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"{fake.url}{STS_PATH}")
    fake.script(Act(status=403, body="<R><Error><Code>AccessDenied</Code></Error></R>"))
    with pytest.raises(AuthFailed, match="AWS_BEARER_TOKEN_BEDROCK"):
        list(engine(fake, http, "bedrock").stream(ask()))
    assert [request.path for request in fake.requests] == [STS_PATH]


# Google


@pytest.fixture
def service_account(
    make_fake: Callable[[], Fake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Fake:
    """Application default credentials whose tokens come from a fake."""
    issuer = make_fake()
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    account = {
        "type": "service_account",
        "client_email": "edge@example.iam.gserviceaccount.com",
        "private_key_id": "1",
        "private_key": key.decode(),
        # The fake answers on a provider's path only.
        "token_uri": f"{issuer.url}/v1/chat/completions",
        "project_id": "p",
    }
    file = tmp_path / "account.json"
    file.write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    told = {"access_token": "ya29.token", "expires_in": 3600, "token_type": "Bearer"}
    issuer.script(Act(status=200, body=json.dumps(told)))
    return issuer


def test_a_project_of_vertex_ai_is_entered_with_the_default_credentials(
    fake: Fake, http: Http, service_account: Fake
) -> None:
    vertex = engine(fake, http, "vertex", project="p", region="europe-west4")
    assert vertex.problem is None
    for _ in range(2):
        assert text_of(vertex.stream(ask())) == "Hello from the cloud."
    assert [r.headers["authorization"] for r in fake.requests] == ["Bearer ya29.token"] * 2
    assert len(service_account.requests) == 1
    assert "/projects/p/locations/europe-west4/" in fake.requests[0].path


def test_a_token_that_google_refuses_is_reported(
    fake: Fake, http: Http, service_account: Fake
) -> None:
    service_account.script(Act(status=401, body='{"error": "invalid_grant"}'))
    with pytest.raises(AuthFailed, match="gcloud auth application-default login"):
        list(engine(fake, http, "vertex", project="p").stream(ask()))
    assert fake.requests == []


def test_without_credentials_of_google_the_advice_says_how_to_log_in(
    fake: Fake, http: Http
) -> None:
    with pytest.raises(AuthFailed, match="gcloud auth application-default login"):
        list(engine(fake, http, "vertex", project="p").stream(ask()))


# What is missing


@pytest.mark.parametrize(
    ("dialect", "fields", "package", "extra"),
    [
        ("vertex", {"project": "p"}, "google.auth", "spillover[vertex]"),
        ("bedrock", {}, "botocore", "spillover[bedrock]"),
    ],
)
def test_a_missing_extra_is_named(
    fake: Fake,
    http: Http,
    monkeypatch: pytest.MonkeyPatch,
    dialect: Any,
    fields: dict[str, Any],
    package: str,
    extra: str,
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else found(name)
    )
    made = engine(fake, http, dialect, **fields)
    assert extra in (made.problem or "")
    with pytest.raises(ProviderError) as caught:
        list(made.stream(ask()))
    assert extra in str(caught.value)
    assert fake.record.accepted == 0


def test_a_missing_key_is_reported_before_anything_is_sent(fake: Fake, http: Http) -> None:
    made = engine(fake, http, "anthropic")
    assert "ANTHROPIC_API_KEY" in (made.problem or "")
    with pytest.raises(AuthFailed, match="ANTHROPIC_API_KEY"):
        list(made.stream(ask()))
    assert fake.record.accepted == 0


def test_a_machine_on_the_lan_needs_no_key(fake: Fake, http: Http) -> None:
    made = engine(fake, http, "openai", is_local_network=True)
    assert text_of(made.stream(ask())) == "Hello from the cloud."
    assert "authorization" not in fake.requests[0].headers
