"""OpenAI's SDK for Python."""

import contextlib
import threading

import openai
import pydantic
from gateway import FAULTY_URL, URL, WAITED, WEATHER, passed, raises, statuses_once, tokens_held, user

key = user()
client = openai.OpenAI(base_url=f"{URL}/v1", api_key=key)


def ask(prompt: str) -> list[dict]:
    return [{"role": "user", "content": prompt}]


def chat_and_stream():
    plain = client.chat.completions.create(model="llama3.2", messages=ask("hello"))
    assert plain.id.startswith("chatcmpl-") and plain._request_id in plain.id
    assert plain.usage.total_tokens == plain.usage.prompt_tokens + plain.usage.completion_tokens > 0

    options = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(model="llama3.2", messages=ask("hello"), stream=True, stream_options=options)
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == plain.choices[0].message.content, text
    assert chunks[-1].usage == plain.usage and not chunks[-1].choices
    assert len({chunk.id for chunk in chunks}) == 1

    short = client.chat.completions.create(model="llama3.2", messages=ask("[[n=90]]"), max_completion_tokens=3)
    assert (short.usage.completion_tokens, short.choices[0].finish_reason) == (3, "length")
    old = client.completions.create(model="llama3.2", prompt="[[n=4]]")
    assert old.usage.completion_tokens == 4 and old.choices[0].text


def tools():
    tool = {"type": "function", "function": WEATHER}
    messages = ask("What is the weather?")
    called = client.chat.completions.create(model="llama3.2", messages=messages, tools=[tool])
    assert called.choices[0].finish_reason == "tool_calls"
    call = called.choices[0].message.tool_calls[0]
    assert (call.function.name, call.type) == ("weather", "function") and "city" in call.function.arguments
    result = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    after = client.chat.completions.create(model="llama3.2", messages=[*messages, called.choices[0].message, result])
    assert after.choices[0].message.content

    with client.chat.completions.stream(model="llama3.2", messages=messages, tools=[tool]) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.tool_calls[0].function.name == "weather"


def structured_output():
    class Person(pydantic.BaseModel):
        name: str
        age: int

    parsed = client.chat.completions.parse(model="llama3.2", messages=ask("who?"), response_format=Person)
    assert isinstance(parsed.choices[0].message.parsed, Person)


def responses():
    plain = client.responses.create(model="llama3.2", input="hello")
    assert plain.id.startswith("resp_") and plain.output_text and plain.usage.output_tokens > 0
    events = list(client.responses.create(model="llama3.2", input="hello", stream=True))
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == plain.output_text == events[-1].response.output_text


def embeddings():
    # The SDK asks for base64 unless it is told otherwise.
    encoded = client.embeddings.create(model="all-minilm", input=["one", "two"])
    floats = client.embeddings.create(model="all-minilm", input=["one", "two"], encoding_format="float")
    assert [item.index for item in encoded.data] == [0, 1]
    pairs = zip(encoded.data[1].embedding, floats.data[1].embedding, strict=True)
    assert all(abs(a - b) < 1e-6 for a, b in pairs)
    assert client.embeddings.create(model="all-minilm", input="one").data[0].embedding == encoded.data[0].embedding


def models_and_base_urls():
    assert "llama3.2:latest" in [model.id for model in client.models.list()]
    assert client.models.retrieve("llama3.2:1b").id == "llama3.2:1b"
    for base in [f"{URL}/v1/", f"{URL}/v1//", URL, f"{URL}/", f"{URL}/k/{key}/v1"]:
        other = openai.OpenAI(base_url=base, api_key=key)
        assert other.chat.completions.create(model="llama3.2", messages=ask("[[n=1]]")).choices, base


def errors():
    with raises(openai.AuthenticationError) as caught:
        openai.OpenAI(base_url=f"{URL}/v1", api_key="sk-wrong").models.list()
    assert caught.error.code == "invalid_api_key" and caught.error.request_id
    with raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nothere", messages=ask("hi"))
    assert caught.error.code == "model_not_found" and caught.error.param == "model"
    with raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="llama3.2", messages=[])
    assert caught.error.param == "messages" and caught.error.type == "invalid_request_error"
    with raises(openai.PermissionDeniedError):
        client.post("/../admin/users", cast_to=object, body={})


def retries():
    limited = user(tokens_per_day=10_000)
    other = client.with_options(api_key=limited)
    with tokens_held(limited):
        with raises(openai.RateLimitError) as caught:
            other.chat.completions.create(model="llama3.2", messages=ask("hi"), max_tokens=2000)
        assert caught.error.code == "rate_limit_exceeded"
        assert int(caught.error.response.headers["retry-after"]) <= 120
        assert statuses_once(limited, 3) == ["refused"] * 3, "three attempts"
    # The stream that held the tokens was left.
    statuses_once(limited, 4)
    assert other.chat.completions.create(model="llama3.2", messages=ask("[[n=1]]"), max_tokens=100).choices

    # A window that passes while the client waits: it comes back by itself, and succeeds.
    patient = user(tokens_per_day=10_000)
    with contextlib.ExitStack() as held:
        held.enter_context(tokens_held(patient))
        threading.Timer(0.5, held.close).start()
        late = client.with_options(api_key=patient).chat.completions.create(
            model="llama3.2", messages=ask("[[n=1]]"), max_tokens=2000
        )
    assert late.choices
    ends = statuses_once(patient, 3)
    assert ends == ["cancelled", "completed", "refused"], ends

    spent = user(tokens_per_day=100)
    with raises(openai.RateLimitError) as caught:
        client.with_options(api_key=spent).chat.completions.create(
            model="llama3.2", messages=ask("hi"), max_tokens=2000
        )
    assert caught.error.code == "insufficient_quota"
    assert statuses_once(spent, 1) == ["refused"], "one attempt, as another cannot help"


def waits_and_breaks():
    faulty = openai.OpenAI(base_url=f"{FAULTY_URL}/v1", api_key=user(FAULTY_URL))
    waited = faulty.chat.completions.create(model="waits", messages=ask("hi"), stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in waited) == WAITED
    seen = []
    with raises(openai.APIError) as caught:
        for chunk in faulty.chat.completions.create(model="breaks", messages=ask("hi"), stream=True):
            seen.append(chunk.choices[0].delta.content)
    assert seen == ["one", " two", " three"] and "incomplete" in caught.error.message
    assert caught.error.code == "upstream_error"


chat_and_stream()
tools()
structured_output()
responses()
embeddings()
models_and_base_urls()
errors()
retries()
waits_and_breaks()
passed("openai")
