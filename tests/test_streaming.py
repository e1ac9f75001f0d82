"""Does a stream arrive as a stream? With the `openai` SDK against what is up (see conftest.py)."""

import asyncio
import json
import time

import openai
import pytest

from support import CHAT_MODEL, wait_until

pytestmark = pytest.mark.integration

# The mark sets the length of a simulated node's answer; a real model does not mind it.
STORY = [{"role": "user", "content": "Tell me a story of at least a hundred words. [[n=120]]"}]
EPIC = [{"role": "user", "content": "Tell me a story of ten thousand words. [[n=10000]]"}]
WITH_USAGE = {"include_usage": True}


def stream(client, messages=STORY, **options):
    return client.chat.completions.create(
        **({"model": CHAT_MODEL, "messages": messages, "max_tokens": 100, "stream": True} | options)
    )


def text(chunk) -> str:
    return (chunk.choices[0].delta.content or "") if chunk.choices else ""


def test_content_arrives_over_time(live_client):
    started = time.monotonic()
    arrivals, words = [], ""
    for chunk in stream(live_client):
        if text(chunk):
            arrivals.append(time.monotonic() - started)
            words += text(chunk)
    first, last = arrivals[0], arrivals[-1]
    print(f"\nfirst text after {first * 1000:.0f} ms, last after {last * 1000:.0f} ms, {len(arrivals)} chunks")
    print(f"{words[:100]}…")
    assert len(arrivals) >= 20
    # Held back by anything on the way, all would arrive at once.
    assert last - first > 0.1
    middle = arrivals[len(arrivals) // 2]
    assert first < middle < last


def test_a_stream_is_one_answer_with_one_end(live_client):
    chunks = list(stream(live_client, max_tokens=10))
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[0].choices[0].delta.role == "assistant"
    ends = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason]
    assert ends == ["length"]
    other = list(stream(live_client, max_tokens=10))
    assert other[0].id != chunks[0].id


def test_a_client_that_asks_for_usage_gets_it_once_at_the_end(live_client):
    chunks = list(stream(live_client, max_tokens=10, stream_options=WITH_USAGE))
    assert [bool(chunk.choices) for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    usage = chunks[-1].usage
    assert usage.completion_tokens == 10
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_client_that_does_not_ask_sees_no_usage_and_is_accounted_all_the_same(live, live_key, live_client):
    raw = live_client.chat.completions.with_raw_response.create(
        model=CHAT_MODEL, messages=STORY, max_tokens=10, stream=True
    )
    chunks = list(raw.parse())
    assert all(chunk.choices for chunk in chunks)
    assert all("usage" not in chunk.model_fields_set for chunk in chunks)
    row = next(row for row in live.rows(live_key) if row["request_id"] == raw.headers["x-request-id"])
    assert (row["stream"], row["status"], row["completion_tokens"]) == (True, "completed", 10)
    assert 0 <= row["time_to_first_token_ms"] <= row["duration_ms"]


def test_what_goes_over_the_wire_is_what_every_client_can_read(live, live_key):
    body = {"model": CHAT_MODEL, "messages": STORY, "max_tokens": 5, "stream": True}
    response = live.request("POST", "/v1/chat/completions", live_key, json=body, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert not {"content-length", "content-encoding"} & {name.lower() for name in response.headers}
    events = response.content.decode().split("\n\n")
    assert events.pop() == ""
    assert events.pop() == "data: [DONE]"
    for event in events:
        # A comment without an empty line behind it may stand before an event.
        *comments, data = event.split("\n")
        assert all(comment == ": keep-alive" for comment in comments), event
        assert isinstance(json.loads(data.removeprefix("data: "))["choices"], list)


def test_twenty_streams_at_once_all_end_well(live, live_key):
    async def one(client, number):
        prompt = [{"role": "user", "content": f"Story number {number}. [[n=60]]"}]
        first, ids, reason = None, set(), None
        started = time.monotonic()
        async for chunk in await stream(client, prompt, max_tokens=30):
            ids.add(chunk.id)
            if text(chunk):
                first = first or time.monotonic() - started
            reason = chunk.choices[0].finish_reason or reason
        assert len(ids) == 1 and reason in {"length", "stop"}
        return ids.pop(), first

    async def everyone():
        async with openai.AsyncOpenAI(base_url=live.api, api_key=live_key, max_retries=0, timeout=300) as client:
            return await asyncio.gather(*(one(client, number) for number in range(20)))

    answers = asyncio.run(everyone())
    waits = sorted(first for _, first in answers)
    print(f"\n20 streams, first text after {waits[0] * 1000:.0f} to {waits[-1] * 1000:.0f} ms")
    assert len({answer for answer, _ in answers}) == 20


def test_closing_a_stream_frees_its_slot_and_leaves_a_cancelled_row(live, live_key, live_client):
    running = stream(live_client, EPIC, max_tokens=10_000)
    request_id = running.response.headers["x-request-id"]
    chunks = iter(running)
    received = sum(1 for chunk in (next(chunks), next(chunks), next(chunks)) if text(chunk))
    assert live.metric("gateway_requests_in_flight") >= 1
    in_use = live.metric("gateway_node_slots_in_use")
    running.close()
    wait_until("the slot is free", lambda: live.metric("gateway_node_slots_in_use") < in_use, seconds=5)

    def row():
        return next((row for row in live.rows(live_key) if row["request_id"] == request_id), None)

    cancelled = wait_until("the row is there", row, seconds=5)
    assert cancelled["status"] == "cancelled"
    assert received <= cancelled["completion_tokens"] < 10_000
    assert cancelled["duration_ms"] < 60_000


def test_a_tool_call_streams(live_client):
    city = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    weather = {"name": "get_weather", "description": "The weather of a city, now", "parameters": city}
    question = [{"role": "user", "content": "What is the weather in Paris? Use the tool."}]
    name, arguments, reason = "", "", None
    for chunk in stream(live_client, question, tools=[{"type": "function", "function": weather}]):
        for call in chunk.choices[0].delta.tool_calls or []:
            assert call.index == 0
            name += call.function.name or ""
            arguments += call.function.arguments or ""
        reason = chunk.choices[0].finish_reason or reason
    assert (name, reason) == ("get_weather", "tool_calls")
    assert set(json.loads(arguments)) == {"city"}


def test_the_sdks_own_helper_follows_a_stream(live_client):
    # Without `max_tokens`, as the helper takes an answer that was cut for an error.
    hello = [{"role": "user", "content": "Say hello. [[n=12]]"}]
    pieces = []
    with live_client.chat.completions.stream(model=CHAT_MODEL, messages=hello, stream_options=WITH_USAGE) as events:
        for event in events:
            if event.type == "content.delta":
                pieces.append(event.delta)
        answer = events.get_final_completion()
    assert "".join(pieces) == answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_completion_streams_with_its_usage(live_client):
    chunks = list(
        live_client.completions.create(
            model=CHAT_MODEL, prompt="Once upon a time", max_tokens=10, stream=True, stream_options=WITH_USAGE
        )
    )
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
    assert chunks[-1].usage.completion_tokens == 10


def test_an_error_before_the_stream_is_an_error_and_no_stream(live_client):
    with pytest.raises(openai.NotFoundError) as raised:
        stream(live_client, model="no-such-model")
    assert raised.value.code == "model_not_found"
