"""Images in a request to a provider."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from spillover.cloud_fallback.providers.dialects.encoding import Fields
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.image import Image
from spillover.runtime.request import GenerationRequest, Message

_TOOL_IMAGES = "The images that the tools returned:"


def check_images(request: GenerationRequest, provider: str, *, sees: bool, links: bool) -> None:
    """Raises InvalidRequest for images that the provider does not see: none at all, or none that
    are given by their URL (*links*)."""
    if not request.n_images:
        return
    if not sees:
        raise InvalidRequest(
            f"the model of {provider} is not known to see images: set vision = true in its table "
            "if it does",
            "messages",
        )
    if not links and any(image.url for m in request.messages for image in m.images):
        raise InvalidRequest(
            f"{provider} takes an image itself, not its URL: send the image's data", "messages"
        )


def content_of(
    message: Message, write_text: Callable[[str], Fields], write_image: Callable[[Image], Fields]
) -> list[Fields]:
    """The texts of *message*, which are not only white space, and its images between them."""
    blocks: list[Fields] = []
    done = 0
    for image in message.images:
        blocks += _text_block(message.content[done : image.at].removeprefix("\n"), write_text)
        blocks.append(write_image(image))
        done = max(done, image.at)
    rest = message.content[done:]
    return blocks + _text_block(rest.removeprefix("\n") if done else rest, write_text)


def _text_block(text: str, write: Callable[[str], Fields]) -> list[Fields]:
    return [write(text)] if text.strip() else []


def data_url(image: Image) -> str:
    """*image* as one URL."""
    return image.url or f"data:{image.media_type};base64,{image.data}"


def with_tool_images_apart(messages: Sequence[Message]) -> list[Message]:
    """*messages* for providers whose tool results hold no images: those follow the results as a
    user's turn."""
    apart: list[Message] = []
    images: tuple[Image, ...] = ()
    for message in messages:
        if images and message.role != "tool":
            apart.append(Message(role="user", content=_TOOL_IMAGES, images=images))
            images = ()
        if message.role == "tool":
            images += tuple(replace(image, at=len(_TOOL_IMAGES)) for image in message.images)
            message = replace(message, images=())
        apart.append(message)
    if images:
        apart.append(Message(role="user", content=_TOOL_IMAGES, images=images))
    return apart


def chat_content(message: Message) -> str | list[Fields]:
    """The content as a text, or as parts where there are images."""
    if not message.images:
        return message.content
    return content_of(
        message,
        lambda text: {"type": "text", "text": text},
        lambda image: {"type": "image_url", "image_url": {"url": data_url(image)}},
    )
