"""LlamaIndex over OpenAI's API, as it is used with servers of one's own."""

import openai
from gateway import FAULTY_URL, URL, WAITED, passed, raises, statuses_once, tokens_held, user
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

key = user()
HELLO = [ChatMessage(role="user", content="hello")]


def model(name: str = "llama3.2", url: str = URL, key: str = key, **options) -> OpenAILike:
    options = {"is_chat_model": True, "is_function_calling_model": True} | options
    return OpenAILike(model=name, api_base=f"{url}/v1", api_key=key, **options)


def chat_and_stream():
    plain = model().chat(HELLO)
    assert plain.message.content and plain.raw.usage.completion_tokens > 0
    assert "".join(part.delta or "" for part in model().stream_chat(HELLO)) == plain.message.content
    assert model().complete("hello").text == plain.message.content
    assert model(is_chat_model=False).complete("hello").text


def tools():
    def weather(city: str) -> str:
        """The weather of a city."""
        return "rain"

    tool = FunctionTool.from_defaults(weather)
    answer = model().chat_with_tools([tool], user_msg="What is the weather?")
    calls = model().get_tool_calls_from_response(answer)
    assert calls[0].tool_name == "weather" and "city" in calls[0].tool_kwargs


def errors_and_retries():
    with raises(openai.NotFoundError):
        model("nothere").chat(HELLO)
    with raises(openai.AuthenticationError):
        model(key="sk-wrong").chat(HELLO)
    limited = user(tokens_per_day=10_000)
    with tokens_held(limited):
        with raises(openai.RateLimitError):
            model(key=limited, max_tokens=2000, max_retries=1).chat(HELLO)
        assert statuses_once(limited, 2) == ["refused"] * 2, "one attempt of its own, in which the SDK makes two"


def waits_and_breaks():
    faulty = user(FAULTY_URL)
    waited = model("waits", FAULTY_URL, faulty).stream_chat(HELLO)
    assert "".join(part.delta or "" for part in waited) == WAITED
    with raises(openai.APIError) as caught:
        list(model("breaks", FAULTY_URL, faulty).stream_chat(HELLO))
    assert "incomplete" in str(caught.error)


chat_and_stream()
tools()
errors_and_retries()
waits_and_breaks()
passed("llama-index-llms-openai-like")
