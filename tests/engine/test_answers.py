"""Is an answer through the gateway the engine's own, and are its tokens counted as the engine counts them?"""

import json
import re

import pytest
from engines import EMBEDDER, MODEL, SLOTS, chat, events

# What differs from one answer to the next, whoever is asked.
PASSING = {"id", "created", "created_at", "completed_at", "timings", "system_fingerprint", "usage", "item_id"}
COLOURS = ["red", "green", "blue"]
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}
MESSAGES = {key: value for key, value in chat("Say hello").items() if key != "seed"}
RESPONSES = {"model": MODEL, "input": "Say hello", "max_output_tokens": 12, "temperature": 0}
REQUESTS = {
    "chat": ("/v1/chat/completions", chat("Say hello")),
    "system": ("/v1/chat/completions", chat("Hi", messages=[{"role": "system", "content": "Be brief."},
                                                            {"role": "user", "content": "Who are you?"}])),
    "unicode": ("/v1/chat/completions", chat("Grüße 🌍 — こんにちは")),
    "tools": ("/v1/chat/completions", chat("What is the weather in Paris?", tools=[TOOL])),
    "schema": ("/v1/chat/completions", chat("The sky?", response_format={
        "type": "json_schema", "json_schema": {"name": "colour", "schema": {"enum": COLOURS}}})),
    "stop": ("/v1/chat/completions", chat("Count: one, two,", 24, stop=["e"])),
    "text": ("/v1/completions", {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 12, "temperature": 0,
                                 "seed": 1}),
    "responses": ("/v1/responses", RESPONSES),
    "messages": ("/v1/messages", MESSAGES),
}


def lasting(value):
    """The answer without what differs from one to the next."""
    if isinstance(value, dict):
        return {name: lasting(inner) for name, inner in value.items() if name not in PASSING}
    if isinstance(value, list):
        return [lasting(inner) for inner in value]
    # Ids stand inside of text as well.
    return re.sub(r"(chatcmpl|resp|msg|call)[-_]\w+", r"\1", value) if isinstance(value, str) else value


def usage(body: dict) -> tuple[int, int] | None:
    """Tokens of prompt and answer as the engine tells them, whatever it calls them and wherever they stand."""
    found = None
    for part in [body, body.get("response") or {}, body.get("message") or {}]:
        if timings := part.get("timings"):
            return timings["prompt_n"] + timings["cache_n"], timings["predicted_n"]
        told = part.get("usage") or {}
        prompt = told.get("prompt_tokens", told.get("input_tokens"))
        answer = told.get("completion_tokens", told.get("output_tokens"))
        if prompt is not None and answer is not None:
            found = (prompt + told.get("cache_read_input_tokens", 0), answer)
    return found


def row_tokens(fleet, response) -> tuple[int, int]:
    row = fleet.last_row(response.headers["x-request-id"])
    return row["prompt_tokens"], row["completion_tokens"]


@pytest.mark.parametrize("name", REQUESTS)
def test_a_plain_answer_is_the_engines_own(fleet, engines, name):
    path, body = REQUESTS[name]
    answer = fleet.post(path, body)
    direct = engines[answer.headers.get("x-gateway-node", "north")].post(path, body)
    assert answer.status_code == direct.status_code == 200, (answer.text, direct.text)
    # Its names for the model may differ: a client finds the one that it asked for.
    assert lasting(answer.json()) | {"model": ""} == lasting(direct.json()) | {"model": ""}
    assert row_tokens(fleet, answer) == usage(answer.json()) == usage(direct.json())


@pytest.mark.parametrize("name", REQUESTS)
def test_a_stream_has_the_tokens_that_the_engine_counts(fleet, engines, name):
    path, body = REQUESTS[name]
    body = body | {"stream": True}
    answer = fleet.post(path, body, stream=True)
    assert answer.status_code == 200
    told = [event for _, event in events(answer)]
    direct = [event for _, event in events(engines["north"].post(path, body, stream=True))]
    assert text_of(told) == text_of(direct)
    assert text_of(told) or name == "tools"
    counted = [tokens for event in direct if (tokens := usage(event))]
    prompt, completion = row_tokens(fleet, answer)
    plain = engines["north"].post(path, body | {"stream": False}).json()
    assert (prompt, completion) == usage(plain), counted


def text_of(stream: list[dict]) -> str:
    """What a stream says, in any of the four dialects."""
    text = ""
    for event in stream:
        for choice in event.get("choices", []):
            text += choice.get("text") or choice.get("delta", {}).get("content") or ""
        if event.get("type") == "response.output_text.delta":
            text += event["delta"]
        elif event.get("type") == "content_block_delta":
            text += event["delta"].get("text", "")
    return text


def test_a_schema_is_kept(fleet):
    path, body = REQUESTS["schema"]
    content = fleet.post(path, body).json()["choices"][0]["message"]["content"]
    assert json.loads(content) in COLOURS


def test_embeddings_are_the_engines_own(fleet, engines):
    body = {"model": EMBEDDER, "input": ["Hello", "world"]}
    answer = fleet.post("/v1/embeddings", body)
    direct = engines["embedder"].post("/v1/embeddings", body)
    assert answer.status_code == direct.status_code == 200, answer.text
    assert [each["embedding"] for each in answer.json()["data"]] == [each["embedding"] for each in direct.json()["data"]]
    assert row_tokens(fleet, answer)[0] == direct.json()["usage"]["prompt_tokens"]


def test_what_an_engine_refuses_is_the_clients_own_mistake(fleet):
    """None of these is the node's failure: they are answered at once, and every node stays up."""
    for _ in range(10):
        refused = fleet.post("/v1/embeddings", {"model": MODEL, "input": "Hello"})
        assert 400 <= refused.status_code < 500 or refused.status_code == 501, refused.text
        wrong = fleet.post("/v1/chat/completions", chat("Hi", temperature="hot"))
        assert 400 <= wrong.status_code < 500, wrong.text
    assert {fleet.node(name)["state"] for name in SLOTS} == {"up"}
    assert fleet.post("/v1/chat/completions", chat("Hi")).status_code == 200
