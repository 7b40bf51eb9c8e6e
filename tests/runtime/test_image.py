"""Images of a conversation, as far as the engine knows them."""

from __future__ import annotations

import base64

import pytest

from spillover.models.catalogue import default_model
from spillover.runtime.errors import ImagesRefused, InvalidRequest
from spillover.runtime.image import MAX_IMAGE_BYTES, MAX_IMAGES, Image, image_of, linked_image
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.request import GenerationRequest, Message
from tests.pictures import JPEG_HEAD, WEBP_HEAD, base64_of, gif, png


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        (png(), "image/png"),
        (gif(), "image/gif"),
        (JPEG_HEAD, "image/jpeg"),
        (WEBP_HEAD, "image/webp"),
    ],
)
def test_the_first_bytes_tell_the_type(content: bytes, media_type: str) -> None:
    image = image_of(base64_of(content))
    assert image.media_type == media_type
    assert base64.b64decode(image.data) == content


def test_base64_is_read_in_the_ways_that_clients_write_it() -> None:
    content = png() + b"\xfb\xff\xfe"
    usual = base64_of(content)
    url_safe = base64.urlsafe_b64encode(content).decode()
    assert "_" in url_safe
    folded = "\n".join(usual[i : i + 76] for i in range(0, len(usual), 76))
    for written in (usual, url_safe, url_safe.rstrip("="), folded):
        assert image_of(written).data == usual


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("no base64!", "is not base64"),
        ("äöü", "is not base64"),
        ("", "none of PNG"),
        (base64_of(b"%PDF-1.7 and more"), "none of PNG"),
        ("A" * (MAX_IMAGE_BYTES * 4 // 3 + 5), "more than 10 MiB"),
    ],
)
def test_what_is_no_image_is_refused(data: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        image_of(data)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://x.y/z.png", "x.png", "https://x.y/" + "z" * 9000, ""]
)
def test_only_links_of_the_web_are_taken(url: str) -> None:
    with pytest.raises(InvalidRequest, match="an image's URL"):
        linked_image(url)


IMAGE = Image(url="https://x.y/z.png")


def test_a_conversation_holds_a_bounded_number_of_images() -> None:
    turn = Message(role="user", content="?", images=(IMAGE,) * MAX_IMAGES)
    assert GenerationRequest(messages=(turn,)).checked().n_images == MAX_IMAGES
    with pytest.raises(InvalidRequest, match="has 65 images"):
        GenerationRequest(
            messages=(turn, Message(role="user", content="", images=(IMAGE,)))
        ).checked()


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_only_users_and_tools_show_images(role: str) -> None:
    turn = Message(role=role, content="x", images=(IMAGE,))  # type: ignore[arg-type]  # a Literal
    with pytest.raises(InvalidRequest, match=r"messages\[0\]: only a turn of the user or a tool"):
        GenerationRequest(messages=(turn,)).checked()


def test_a_local_model_refuses_images_before_it_has_loaded() -> None:
    turn = Message(role="user", content="What is this?", images=(IMAGE,))
    with LocalEngine(default_model().path) as engine:
        with pytest.raises(ImagesRefused, match=r"messages\[0\] holds an image"):
            next(engine.stream(GenerationRequest(messages=(turn,))))
        engine.wait_ready(60)
        request = GenerationRequest(messages=(turn,))
        bare = GenerationRequest(messages=(Message(role="user", content="What is this?"),))
        assert engine.apply_template(request) == engine.apply_template(bare)
