"""What does the `openai` SDK see of the gateway? Needs no Ollama: a demo with simulated nodes is started."""

import base64
import re
import struct
import threading
import time
import uuid
from datetime import datetime, timezone

import openai
import pytest

from support import CHAT_MODEL, EMBEDDING_MODEL, wait_until

HELLO = [{"role": "user", "content": "Hello"}]
# What Codex parses a delay out of.
COME_BACK = re.compile(r"(?i)try again in\s*(\d+(?:\.\d+)?)\s*(s|ms|seconds?)")
GO_DURATION = re.compile(r"^(\d+h)?(\d+m)?(\d+s)?(\d+ms)?$")


def sdk(gateway, key, **options):
    return openai.OpenAI(base_url=gateway.api, api_key=key, **({"max_retries": 0} | options))


def chat(client, **options):
    return client.chat.completions.create(**({"model": CHAT_MODEL, "messages": HELLO, "max_tokens": 5} | options))


def statuses(gateway, key):
    return [row["status"] for row in gateway.rows(key)]


# Models


def test_models_are_listed_as_the_nodes_name_them(client):
    models = list(client.models.list())
    assert CHAT_MODEL.partition(":")[0] in {model.id.partition(":")[0] for model in models}
    for model in models:
        assert (model.object, type(model.created), type(model.owned_by)) == ("model", int, str)
    assert len({model.id for model in models}) == len(models)


def test_a_model_is_found_by_its_name_with_and_without_a_tag(client):
    listed = {model.id for model in client.models.list()}
    retrieved = client.models.retrieve(CHAT_MODEL)
    assert retrieved.id in listed
    assert client.models.retrieve(retrieved.id).id == retrieved.id


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("no-such-model")
    assert raised.value.code == "model_not_found"


# Inference


def test_a_chat_answers_with_usage(client):
    answer = chat(client)
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.prompt_tokens > 0
    assert answer.usage.completion_tokens == 5
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 5


def test_ids_are_unique(client):
    ids = [chat(client, max_tokens=1).id for _ in range(5)]
    assert len(set(ids)) == 5
    assert all(one.startswith("chatcmpl-") for one in ids)


def test_a_chat_streams(client):
    chunks = list(chat(client, stream=True))
    assert len({chunk.id for chunk in chunks}) == 1
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "length"


def test_the_newer_name_of_max_tokens_is_kept(client):
    answer = client.chat.completions.create(model=CHAT_MODEL, messages=HELLO, max_completion_tokens=3)
    assert answer.usage.completion_tokens == 3


def test_a_response_format_reaches_the_node(client):
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    answer = chat(
        client,
        max_tokens=100,
        response_format={"type": "json_schema", "json_schema": {"name": "place", "schema": schema}},
    )
    assert answer.choices[0].message.content.lstrip().startswith('{"city"')


def test_a_tool_is_called(client):
    weather = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
    answer = chat(
        client,
        max_tokens=100,
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=[{"type": "function", "function": weather}],
    )
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.tool_calls[0].function.name == "weather"


def test_a_completion_answers(client):
    answer = client.completions.create(model=CHAT_MODEL, prompt="Once upon a time", max_tokens=4)
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    assert answer.choices[0].text
    assert answer.usage.completion_tokens == 4


def test_a_completion_streams(client):
    chunks = list(client.completions.create(model=CHAT_MODEL, prompt="Once", max_tokens=4, stream=True))
    assert len({chunk.id for chunk in chunks}) == 1
    assert "".join(chunk.choices[0].text for chunk in chunks)


def test_embeddings_come_as_floats(client):
    answer = client.embeddings.create(model=EMBEDDING_MODEL, input=["one", "two"], encoding_format="float")
    assert [one.index for one in answer.data] == [0, 1]
    assert len(answer.data[0].embedding) == len(answer.data[1].embedding) > 1
    assert answer.data[0].embedding != answer.data[1].embedding
    assert answer.usage.total_tokens == answer.usage.prompt_tokens > 0


def test_embeddings_come_as_base64_which_the_sdk_asks_for_by_default(client):
    raw = client.embeddings.with_raw_response.create(model=EMBEDDING_MODEL, input="one", encoding_format="base64")
    packed = base64.b64decode(raw.http_response.json()["data"][0]["embedding"])
    unpacked = struct.unpack(f"<{len(packed) // 4}f", packed)
    by_default = client.embeddings.create(model=EMBEDDING_MODEL, input="one").data[0].embedding
    floats = client.embeddings.create(model=EMBEDDING_MODEL, input="one", encoding_format="float").data[0].embedding
    assert by_default == pytest.approx(floats, abs=1e-6)
    assert list(unpacked) == pytest.approx(floats, abs=1e-6)


def test_an_answer_says_where_it_comes_from(client, gateway, user_key):
    raw = chat_raw(client)
    assert raw.headers["x-gateway-node"]
    assert int(raw.headers["x-gateway-queue-ms"]) >= 0
    assert int(raw.headers["x-gateway-attempts"]) == 1
    newest = gateway.rows(user_key)[0]
    assert newest["request_id"] == raw.headers["x-request-id"]
    assert newest["node"] == raw.headers["x-gateway-node"]


def test_the_request_id_is_ours_and_the_clients_is_echoed(client):
    raw = chat_raw(client, extra_headers={"x-request-id": "mine-1"})
    uuid.UUID(raw.headers["x-request-id"])
    assert raw.headers["x-client-request-id"] == "mine-1"


def chat_raw(client, **options):
    return client.chat.completions.with_raw_response.create(
        **({"model": CHAT_MODEL, "messages": HELLO, "max_tokens": 1} | options)
    )


# Errors


@pytest.mark.parametrize("key", ["sk-wrong", "noop", "not-provided"])
def test_a_wrong_key_is_an_authentication_error(gateway, key):
    with pytest.raises(openai.AuthenticationError) as raised, sdk(gateway, key) as client:
        chat(client)
    assert raised.value.code == "invalid_api_key"
    assert raised.value.type == "authentication_error"
    uuid.UUID(raised.value.request_id)


def test_the_admin_key_is_no_user_key(gateway, admin_key):
    with pytest.raises(openai.AuthenticationError), sdk(gateway, admin_key) as client:
        chat(client)


def test_a_users_key_does_not_open_admin(gateway, user_key):
    with pytest.raises(openai.PermissionDeniedError) as raised, sdk(gateway, user_key) as client:
        client.with_options(base_url=gateway.url).get("/admin/users", cast_to=object)
    assert raised.value.type == "permission_error"
    assert gateway.request("GET", "/admin/users", "sk-wrong").status_code == 401


def test_any_of_three_headers_holds_the_key_and_two_keys_are_a_mistake(gateway, user_key):
    for headers in [{"x-api-key": user_key}, {"api-key": user_key}, {"Authorization": f"bearer {user_key}"}]:
        assert gateway.request("GET", "/v1/models", headers=headers).status_code == 200
    both = gateway.request("GET", "/v1/models", user_key, headers={"x-api-key": "sk-other"})
    assert both.status_code == 400


def test_a_chat_with_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as raised:
        chat(client, model="no-such-model")
    assert raised.value.code == "model_not_found"
    assert raised.value.param == "model"


def test_an_image_that_must_be_fetched_is_refused(client):
    part = {"type": "image_url", "image_url": {"url": "http://example.com/cat.png"}}
    with pytest.raises(openai.BadRequestError) as raised:
        chat(client, messages=[{"role": "user", "content": [part]}])
    assert raised.value.param == "messages"
    assert "data:" in raised.value.message


@pytest.mark.parametrize("messages", [None, [], "Hello", [123], [{}], [{"role": "user", "content": 5}]])
def test_messages_of_another_kind_are_refused(client, messages):
    with pytest.raises(openai.BadRequestError) as raised:
        client.post("/chat/completions", cast_to=object, body={"model": CHAT_MODEL, "messages": messages})
    assert raised.value.param == "messages"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_is_refused(gateway, user_key, body):
    response = gateway.request("POST", "/v1/chat/completions", user_key, data=body)
    assert response.status_code == 400
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_wrong_paths_and_methods_answer_in_json(gateway, user_key):
    unknown = gateway.request("GET", "/v1/nothing", user_key)
    assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "not_found_error")
    wrong = gateway.request("GET", "/v1/chat/completions", user_key)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert wrong.json()["error"]["code"] == "method_not_allowed"


# Limits


def test_the_requests_of_a_minute_are_counted_down_and_then_refused(gateway):
    with gateway.user(requests_per_minute=3) as (_, key), sdk(gateway, key) as client:
        for left in ["2", "1", "0"]:
            headers = chat_raw(client).headers
            assert headers["x-ratelimit-limit-requests"] == "3"
            assert headers["x-ratelimit-remaining-requests"] == left
            assert headers["x-ratelimit-reset-requests"] and GO_DURATION.match(headers["x-ratelimit-reset-requests"])
        with pytest.raises(openai.RateLimitError) as raised:
            chat(client)
        assert statuses(gateway, key) == ["refused", "completed", "completed", "completed"]
    error, headers = raised.value, raised.value.response.headers
    assert (error.type, error.code) == ("rate_limit_error", "rate_limit_exceeded")
    assert 1 <= int(headers["retry-after"]) <= 60
    assert 0 <= int(headers["retry-after"]) * 1000 - int(headers["retry-after-ms"]) < 1000
    assert "x-should-retry" not in headers
    assert COME_BACK.search(error.message).group(1) == headers["retry-after"]
    assert headers["x-ratelimit-remaining-requests"] == "0"


def test_exactly_the_limit_gets_through_when_all_come_at_once(gateway):
    with gateway.user(requests_per_minute=5) as (_, key), sdk(gateway, key) as client:
        outcomes = []

        def one():
            try:
                chat(client, max_tokens=1)
                outcomes.append("completed")
            except openai.RateLimitError:
                outcomes.append("refused")

        # Ten refusals a minute have a row each.
        threads = [threading.Thread(target=one) for _ in range(15)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["completed"] * 5 + ["refused"] * 10
        assert sorted(statuses(gateway, key)) == sorted(outcomes)


def test_the_sdk_tries_a_rate_limited_request_again_after_the_time_it_is_told(gateway, monkeypatch):
    retried_before = gateway.metric("gateway_client_retries_total")
    waits = []
    with gateway.user(requests_per_minute=1) as (_, key), sdk(gateway, key, max_retries=2) as client:
        chat(client)
        # The window is a minute; the test looks at what the SDK would wait and does not wait with it.
        monkeypatch.setattr(time, "sleep", waits.append)
        with pytest.raises(openai.RateLimitError) as raised:
            chat(client)
        monkeypatch.undo()
        assert statuses(gateway, key) == ["refused"] * 3 + ["completed"]
    assert len(waits) == 2
    told = int(raised.value.response.headers["retry-after-ms"]) / 1000
    assert all(told <= wait <= 60 for wait in waits), (told, waits)
    assert gateway.metric("gateway_client_retries_total") == retried_before + 2


def test_the_sdk_gets_through_once_a_running_request_has_given_its_tokens_back(gateway):
    long = [{"role": "user", "content": "Tell a long story. [[n=2000]]"}]
    with gateway.user(tokens_per_day=3000) as (_, key), sdk(gateway, key, max_retries=2) as client:
        running = chat(client, messages=long, max_tokens=2000, stream=True)
        next(iter(running))
        threading.Timer(0.5, running.close).start()
        started = time.monotonic()
        assert chat(client, max_tokens=2000).choices
        # The gateway says 2 s.
        assert time.monotonic() - started >= 2
        assert statuses(gateway, key).count("refused") == 1


def test_a_used_up_quota_is_tried_once(gateway):
    refused_before = gateway.metric("gateway_rate_limited_total", limit="tokens_per_day")
    with gateway.user(tokens_per_day=100) as (_, key), sdk(gateway, key, max_retries=2) as client:
        with pytest.raises(openai.RateLimitError) as raised:
            chat(client, max_tokens=500)
        assert statuses(gateway, key) == ["refused"]
    headers = raised.value.response.headers
    assert raised.value.code == "insufficient_quota"
    assert headers["x-should-retry"] == "false"
    assert headers["x-ratelimit-limit-tokens"] == headers["x-ratelimit-remaining-tokens"] == "100"
    assert GO_DURATION.match(headers["x-ratelimit-reset-tokens"])
    assert COME_BACK.search(raised.value.message)
    assert gateway.metric("gateway_rate_limited_total", limit="tokens_per_day") == refused_before + 1


def test_without_max_tokens_the_rest_of_the_day_is_the_cap(gateway):
    with gateway.user(tokens_per_day=150) as (name, key), sdk(gateway, key) as client:
        answer = client.chat.completions.create(
            model=CHAT_MODEL, messages=[{"role": "user", "content": "Count on. [[n=500]]"}]
        )
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage.total_tokens <= 150
        used = gateway.admin("GET", f"/users/{name}/limits").json()["used"]
        assert (used["tokens_today"], used["tokens_reserved"]) == (answer.usage.total_tokens, 0)


# Usage


def test_usage_agrees_with_what_the_sdk_was_told(gateway):
    began = datetime.now(timezone.utc)
    with gateway.user() as (_, key), sdk(gateway, key) as client:
        told = [chat(client, max_tokens=limit).usage for limit in [3, 5]]
        streamed = list(chat(client, max_tokens=7, stream=True, stream_options={"include_usage": True}))
        told.append(streamed[-1].usage)
        # A client that does not ask for the usage is accounted for all the same.
        list(chat(client, max_tokens=7, stream=True))
        told.append(streamed[-1].usage)
        embedded = client.embeddings.create(model=EMBEDDING_MODEL, input="one")
        rows = gateway.rows(key)[::-1]
        summary = gateway.request("GET", "/v1/usage/summary", key).json()
        later = gateway.request("GET", "/v1/usage/summary", key, params={"from": "2999-01-01"}).json()

    for row, usage in zip(rows[:-1], told, strict=True):
        assert row["prompt_tokens"] == usage.prompt_tokens
        assert row["completion_tokens"] == usage.completion_tokens
        assert row["total_tokens"] == usage.total_tokens
    assert [row["stream"] for row in rows] == [False, False, True, True, False]
    assert {row["status"] for row in rows} == {"completed"}
    assert rows[-1]["endpoint"] == "/v1/embeddings"
    assert rows[-1]["total_tokens"] == embedded.usage.total_tokens
    for row in rows:
        created = datetime.fromisoformat(row["created_at"])
        assert row["created_at"].endswith("Z") and abs((created - began).total_seconds()) < 60
        assert 0 <= row["queue_ms"] <= row["duration_ms"]

    by_model = {one["model"]: one for one in summary["data"]}
    assert by_model[CHAT_MODEL]["requests"] == 4
    assert by_model[CHAT_MODEL]["total_tokens"] == sum(usage.total_tokens for usage in told)
    assert summary["total"]["requests"] == 5
    assert summary["total"]["total_tokens"] == sum(row["total_tokens"] for row in rows)
    assert later == {
        "data": [],
        "total": {"requests": 0, "prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    }


def test_usage_pages_hold_every_row_once_newest_first(gateway):
    with gateway.user() as (_, key), sdk(gateway, key) as client:
        for _ in range(5):
            chat(client, max_tokens=1)
        every = [row["request_id"] for row in gateway.rows(key)]
        paged, cursor = [], None
        while True:
            page = gateway.request("GET", "/v1/usage", key, params={"limit": 2, "after": cursor}).json()
            assert page["object"] == "list"
            paged += [row["request_id"] for row in page["data"]]
            cursor = page["next"]
            if cursor is None:
                break
            assert re.fullmatch(r"[A-Za-z0-9_.~-]+", cursor)
        assert paged == every and len(set(every)) == 5
        for wrong in [{"limit": 0}, {"limit": 1001}, {"after": "%%%"}]:
            assert gateway.request("GET", "/v1/usage", key, params=wrong).status_code == 400


# Admin


def test_a_users_life(gateway):
    name = f"life.{uuid.uuid4().hex[:8]}@example.org"
    created = gateway.admin("POST", "/users", json={"user_id": name})
    assert created.status_code == 201
    key = created.json()["api_key"]
    assert re.fullmatch(re.escape(f"sk-{name}-") + "[0-9a-f]{32}", key)
    assert gateway.admin("POST", "/users", json={"user_id": name}).status_code == 409

    with sdk(gateway, key) as client:
        usage = chat(client).usage
        limits = {"requests_per_minute": 10, "tokens_per_day": 10_000}
        changed = gateway.admin("PUT", f"/users/{name}/limits", json=limits).json()
        assert {limit: changed[limit] for limit in limits} == limits
        assert (changed["left"]["requests"], changed["left"]["tokens"]) == (10, 10_000 - usage.total_tokens)
        # Absent is unchanged, null is no limit.
        changed = gateway.admin("PUT", f"/users/{name}/limits", json={"requests_per_minute": None}).json()
        assert (changed["requests_per_minute"], changed["tokens_per_day"]) == (None, 10_000)

        seen = gateway.admin("GET", f"/users/{name}/usage").json()
        assert len(seen["data"]) == 1
        assert seen["summary"]["total"]["total_tokens"] == usage.total_tokens
        shown = gateway.admin("GET", f"/users/{name}")
        assert shown.json()["user_id"] == name and key not in shown.text
        listed = gateway.admin("GET", "/users", params={"limit": 1000})
        assert name in {user["user_id"] for user in listed.json()["data"]} and key not in listed.text

        assert gateway.admin("DELETE", f"/users/{name}").status_code == 200
        with pytest.raises(openai.AuthenticationError):
            chat(client)
    assert gateway.admin("GET", f"/users/{name}").status_code == 404
    assert gateway.admin("DELETE", f"/users/{name}").status_code == 404
    # The history stays.
    assert len(gateway.admin("GET", f"/users/{name}/usage").json()["data"]) == 1


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"user_id": ""},
        {"user_id": "a" * 65},
        {"user_id": "a b"},
        {"user_id": "../a"},
        {"user_id": 7},
        {"user_id": "bad-limit", "requests_per_minute": -1},
        {"user_id": "bad-limit", "tokens_per_day": 1.5},
        {"user_id": "bad-limit", "unknown": 1},
    ],
)
def test_a_user_who_cannot_be_is_not_made(gateway, body):
    response = gateway.admin("POST", "/users", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_the_admin_sees_the_nodes(gateway):
    nodes = gateway.admin("GET", "/nodes").json()["data"]
    assert nodes
    for node in nodes:
        assert node["state"] == "up"
        assert {"slots", "in_flight", "queue", "models", "loaded", "last_error"} <= set(node)


# Without a key


def test_the_front_door(gateway):
    root = gateway.request("GET", "/")
    assert "Ollama is running" in root.text
    assert {"name", "version", "links"} <= set(root.json())
    health = gateway.request("GET", "/health")
    assert health.status_code == 200
    assert health.json()["nodes"]["healthy"] == health.json()["nodes"]["total"] > 0
    for path in ["/health/live", "/health/ready"]:
        assert gateway.request("GET", path).status_code == 200


def test_the_docs_load_without_the_internet(gateway):
    page = gateway.request("GET", "/docs")
    assert page.status_code == 200
    assert "swagger" in page.text.lower()
    used = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert used
    for one in used:
        assert not one.startswith(("http:", "https:", "//")), one
        assert gateway.request("GET", f"/docs/{one.removeprefix('./')}").status_code == 200, one
    assert "/openapi.json" in gateway.request("GET", "/docs/swagger-initializer.js").text


def test_the_openapi_document_names_every_route(gateway):
    document = gateway.request("GET", "/openapi.json").json()
    assert document["openapi"].startswith("3.")
    for path in ["/v1/chat/completions", "/v1/usage/summary", "/admin/users/{id}/limits", "/health", "/metrics"]:
        assert path in document["paths"]
    assert len(document["components"]["securitySchemes"]) == 3


def test_metrics_count_what_was_served(gateway, client):
    labels = {"route": "/v1/chat/completions", "code": "200", "outcome": "ok"}
    before = gateway.metric("gateway_requests_total", **labels)
    chat(client)
    wait_until("the request is counted", lambda: gateway.metric("gateway_requests_total", **labels) == before + 1)
    assert gateway.metric("gateway_requests_in_flight") == 0
    assert gateway.metric("gateway_tokens_total", type="output") > 0
