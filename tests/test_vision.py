"""Do images reach a vision model? With the `openai` SDK against what is up (see conftest.py)."""

import base64
import struct
import zlib

import openai
import pytest

from support import CHAT_MODEL, VISION_MODEL

pytestmark = pytest.mark.integration

RED, BLUE = (220, 20, 20), (20, 20, 220)


def png(colour: tuple[int, int, int], side: int = 64) -> bytes:
    """A square of one colour. Some vision models take nothing smaller than 28 pixels."""

    def block(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    line = b"\0" + bytes(colour) * side
    pixels = zlib.compress(line * side)
    return b"\x89PNG\r\n\x1a\n" + block(b"IHDR", header) + block(b"IDAT", pixels) + block(b"IEND", b"")


def image(colour) -> dict:
    url = "data:image/png;base64," + base64.b64encode(png(colour)).decode()
    return {"type": "image_url", "image_url": {"url": url}}


def ask(client, *parts, **options):
    content = [{"type": "text", "text": "What do you see?"}, *parts]
    messages = [{"role": "user", "content": content}]
    return client.chat.completions.create(**({"model": VISION_MODEL, "messages": messages, "max_tokens": 40} | options))


def test_an_image_is_seen(live_client):
    answer = ask(live_client, image(RED))
    print(f"\none image: {answer.choices[0].message.content}")
    assert answer.choices[0].message.content
    without = ask(live_client)
    assert answer.usage.prompt_tokens > without.usage.prompt_tokens


def test_two_images_are_two_images(live_client):
    one, two = ask(live_client, image(RED)), ask(live_client, image(RED), image(BLUE))
    print(f"\ntwo images: {two.choices[0].message.content}")
    assert two.choices[0].message.content
    assert two.usage.prompt_tokens > one.usage.prompt_tokens


def test_an_answer_about_an_image_streams(live_client):
    chunks = list(ask(live_client, image(BLUE), stream=True, stream_options={"include_usage": True}))
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    print(f"\nstreamed: {''.join(pieces)}")
    assert len(pieces) > 1
    assert chunks[-1].usage.completion_tokens > 1


def test_an_image_is_accounted_to_its_user(live, live_key, live_client):
    usage = ask(live_client, image(RED)).usage
    row = live.rows(live_key)[0]
    assert (row["model"], row["status"], row["total_tokens"]) == (VISION_MODEL, "completed", usage.total_tokens)


@pytest.mark.parametrize("url", ["http://example.com/cat.png", "https://example.com/cat.png", "file:///etc/passwd"])
def test_an_image_that_must_be_fetched_is_refused(live_client, url):
    with pytest.raises(openai.BadRequestError) as raised:
        ask(live_client, {"type": "image_url", "image_url": {"url": url}})
    assert raised.value.param == "messages"


def test_an_image_for_a_model_without_eyes_is_the_nodes_own_error(live_client):
    with pytest.raises(openai.BadRequestError) as raised:
        ask(live_client, image(RED), model=CHAT_MODEL)
    assert "vision" in raised.value.message
    # It comes from a node, and no other node would say otherwise.
    assert raised.value.response.headers["x-gateway-node"]
    assert raised.value.response.headers["x-gateway-attempts"] == "1"
    assert raised.value.response.headers["x-should-retry"] == "false"


def test_what_is_no_image_is_a_bad_request(live_client):
    text = {"type": "image_url", "image_url": {"url": "data:text/plain;base64,SGVsbG8="}}
    with pytest.raises(openai.BadRequestError):
        ask(live_client, text)
