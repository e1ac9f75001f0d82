"""Anthropic's SDK for Python."""

import anthropic
from gateway import FAULTY_URL, URL, WAITED, WEATHER, passed, raises, statuses_once, tokens_held, user

key = user()
client = anthropic.Anthropic(base_url=URL, api_key=key)


def ask(prompt: str, model: str = "llama3.2", max_tokens: int = 200) -> dict:
    return {"model": model, "max_tokens": max_tokens, "messages": [{"role": "user", "content": prompt}]}


def message_and_stream():
    plain = client.messages.create(**ask("hello"))
    assert plain.id.startswith("msg_") and plain.stop_reason == "end_turn"
    assert plain.usage.input_tokens > 0 and plain.usage.output_tokens > 0

    with client.messages.stream(**ask("hello")) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == plain.content[0].text == final.content[0].text
    assert final.usage.output_tokens == plain.usage.output_tokens and final.stop_reason == "end_turn"

    kinds = [event.type for event in client.messages.create(**ask("[[n=2]]"), stream=True)]
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop"), kinds
    assert client.messages.create(**ask("[[n=90]]", max_tokens=3)).stop_reason == "max_tokens"
    assert client.messages.create(**ask("hi"), system="Be brief.").content[0].text


def tools():
    tool = {"name": "weather", "description": "…", "input_schema": WEATHER["parameters"]}
    called = client.messages.create(**ask("What is the weather?"), tools=[tool])
    assert called.stop_reason == "tool_use"
    assert (called.content[-1].name, list(called.content[-1].input)) == ("weather", ["city"])
    with client.messages.stream(**ask("What is the weather?"), tools=[tool]) as stream:
        final = stream.get_final_message()
    assert final.content[-1].input == called.content[-1].input


def keys():
    bearer = anthropic.Anthropic(base_url=f"{URL}/", auth_token=key)
    assert bearer.messages.create(**ask("[[n=1]]")).content
    in_path = anthropic.Anthropic(base_url=f"{URL}/k/{key}", api_key=key)
    assert in_path.messages.create(**ask("[[n=1]]")).content


def errors():
    with raises(anthropic.AuthenticationError) as caught:
        anthropic.Anthropic(base_url=URL, api_key="sk-wrong").messages.create(**ask("hi"))
    assert caught.error.body["error"]["type"] == "authentication_error"
    with raises(anthropic.NotFoundError) as caught:
        client.messages.create(**ask("hi", model="nothere"))
    assert "nothere" in caught.error.body["error"]["message"]
    with raises(anthropic.BadRequestError):
        client.messages.create(**ask("hi", max_tokens=0))


def retries():
    limited = user(tokens_per_day=10_000)
    other = client.with_options(api_key=limited)
    with tokens_held(limited):
        with raises(anthropic.RateLimitError) as caught:
            other.messages.create(**ask("hi", max_tokens=2000))
        assert caught.error.body["error"]["type"] == "rate_limit_error"
        assert statuses_once(limited, 3) == ["refused"] * 3, "three attempts"
    spent = user(tokens_per_day=100)
    with raises(anthropic.RateLimitError):
        client.with_options(api_key=spent).messages.create(**ask("hi", max_tokens=2000))
    assert statuses_once(spent, 1) == ["refused"], "one attempt, as another cannot help"


def waits_and_breaks():
    faulty = anthropic.Anthropic(base_url=FAULTY_URL, api_key=user(FAULTY_URL))
    with faulty.messages.stream(**ask("hi", model="waits")) as stream:
        assert "".join(stream.text_stream) == WAITED
    seen = []
    with raises(anthropic.APIError) as caught, faulty.messages.stream(**ask("hi", model="breaks")) as stream:
        seen.extend(stream.text_stream)
    assert "incomplete" in str(caught.error)


message_and_stream()
tools()
keys()
errors()
retries()
waits_and_breaks()
passed("anthropic")
