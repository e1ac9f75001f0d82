"""LangChain over OpenAI's API."""

import openai
import pydantic
from gateway import FAULTY_URL, URL, WAITED, WEATHER, passed, raises, statuses_once, tokens_held, user
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

key = user()


def model(name: str = "llama3.2", url: str = URL, key: str = key, **options) -> ChatOpenAI:
    return ChatOpenAI(model=name, base_url=f"{url}/v1", api_key=key, **options)


def chat_and_stream():
    plain = model().invoke("hello")
    assert plain.content and plain.usage_metadata["output_tokens"] > 0
    chunks = list(model(stream_usage=True).stream("hello"))
    assert "".join(chunk.content for chunk in chunks) == plain.content
    whole = sum(chunks[1:], chunks[0])
    assert whole.usage_metadata["output_tokens"] == plain.usage_metadata["output_tokens"]
    assert model(max_tokens=3).invoke("[[n=90]]").response_metadata["finish_reason"] == "length"


def tools():
    called = model().bind_tools([{"type": "function", "function": WEATHER}]).invoke("What is the weather?")
    assert called.tool_calls[0]["name"] == "weather" and "city" in called.tool_calls[0]["args"]


def structured_output():
    class Person(pydantic.BaseModel):
        name: str
        age: int

    assert isinstance(model().with_structured_output(Person).invoke("who?"), Person)


def responses():
    assert model(use_responses_api=True).invoke("hello").text


def embeddings():
    # Without this it sends numbers instead of text, which Ollama does not take.
    embedder = OpenAIEmbeddings(
        model="all-minilm", base_url=f"{URL}/v1", api_key=key, check_embedding_ctx_length=False
    )
    vectors = embedder.embed_documents(["one", "two"])
    assert len(vectors) == 2 and embedder.embed_query("two") == vectors[1]


def errors_and_retries():
    with raises(openai.NotFoundError):
        model("nothere").invoke("hi")
    with raises(openai.AuthenticationError):
        model(key="sk-wrong").invoke("hi")
    limited = user(tokens_per_day=10_000)
    with tokens_held(limited):
        with raises(openai.RateLimitError):
            model(key=limited, max_tokens=2000).invoke("hi")
        assert statuses_once(limited, 3) == ["refused"] * 3, "three attempts"


def waits_and_breaks():
    faulty = user(FAULTY_URL)
    waited = model("waits", FAULTY_URL, faulty).stream("hi")
    assert "".join(chunk.content for chunk in waited) == WAITED
    seen = []
    with raises(openai.APIError) as caught:
        for chunk in model("breaks", FAULTY_URL, faulty).stream("hi"):
            seen.append(chunk.content)
    assert "".join(seen) == "one two three" and "incomplete" in str(caught.error)


chat_and_stream()
tools()
structured_output()
responses()
embeddings()
errors_and_retries()
waits_and_breaks()
passed("langchain-openai")
