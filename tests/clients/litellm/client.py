"""LiteLLM, in each dialect that it speaks to a server of one's own."""

import os

# It would otherwise fetch its table of prices.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm  # noqa: E402
from gateway import FAULTY_URL, URL, WAITED, WEATHER, passed, raises, statuses_once, tokens_held, user  # noqa: E402

litellm.telemetry = False
key = user()
OPENAI = {"model": "openai/llama3.2", "api_base": f"{URL}/v1"}
OLLAMA = {"model": "ollama_chat/llama3.2", "api_base": URL}
ANTHROPIC = {"model": "anthropic/llama3.2", "api_base": URL}


def ask(prompt: str, server: dict, key: str = key, **options):
    return litellm.completion(messages=[{"role": "user", "content": prompt}], api_key=key, **(server | options))


def chat_and_stream():
    for server in [OPENAI, OLLAMA, ANTHROPIC]:
        plain = ask("hello", server, max_tokens=200)
        assert plain.usage.completion_tokens > 0, server
        chunks = list(ask("hello", server, max_tokens=200, stream=True))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == plain.choices[0].message.content, (server, text)


def tools():
    called = ask("What is the weather?", OPENAI, tools=[{"type": "function", "function": WEATHER}])
    assert called.choices[0].message.tool_calls[0].function.name == "weather"


def embeddings():
    server = {"model": "openai/all-minilm", "api_base": f"{URL}/v1", "api_key": key}
    found = litellm.embedding(input=["one", "two"], encoding_format="float", **server)
    assert len(found.data) == 2 and found.usage.prompt_tokens > 0


def errors_and_retries():
    with raises(litellm.NotFoundError):
        ask("hi", OPENAI | {"model": "openai/nothere"})
    with raises(litellm.AuthenticationError):
        ask("hi", OPENAI, key="sk-wrong")
    with raises(litellm.NotFoundError):
        ask("hi", ANTHROPIC | {"model": "anthropic/nothere"})
    limited = user(tokens_per_day=10_000)
    with tokens_held(limited):
        with raises(litellm.RateLimitError):
            ask("hi", OPENAI, key=limited, max_tokens=2000, max_retries=2)
        assert statuses_once(limited, 3) == ["refused"] * 3, "three attempts"


def waits_and_breaks():
    faulty = user(FAULTY_URL)

    def stream(server, model):
        server = server | {"model": f"{server['model'].split('/')[0]}/{model}"}
        server["api_base"] = server["api_base"].replace(URL, FAULTY_URL)
        return ask("hi", server, key=faulty, max_tokens=200, stream=True)

    for server in [OPENAI, OLLAMA, ANTHROPIC]:
        chunks = list(stream(server, "waits"))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == WAITED, (server, text)
        with raises(Exception) as caught:
            list(stream(server, "breaks"))
        assert "incomplete" in str(caught.error), (server, caught.error)


chat_and_stream()
tools()
embeddings()
errors_and_retries()
waits_and_breaks()
passed("litellm")
