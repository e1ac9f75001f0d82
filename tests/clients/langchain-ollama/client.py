"""LangChain over Ollama's own API."""

import ollama
import pydantic
from gateway import FAULTY_URL, URL, WAITED, WEATHER, passed, raises, user
from langchain_ollama import ChatOllama, OllamaEmbeddings

key = user()


def bearer(key: str) -> dict:
    return {"client_kwargs": {"headers": {"Authorization": f"Bearer {key}"}}}


def model(name: str = "llama3.2", url: str = URL, key: str = key, **options) -> ChatOllama:
    return ChatOllama(model=name, base_url=url, **bearer(key), **options)


def chat_and_stream():
    plain = model(validate_model_on_init=True).invoke("hello")
    assert plain.content and plain.usage_metadata["output_tokens"] > 0
    assert "".join(chunk.content for chunk in model().stream("hello")) == plain.content
    short = model(num_predict=3, num_ctx=8192, keep_alive=0).invoke("[[n=90]]")
    assert short.response_metadata["done_reason"] == "length"


def tools_and_structured_output():
    class Person(pydantic.BaseModel):
        name: str
        age: int

    called = model().bind_tools([{"type": "function", "function": WEATHER}]).invoke("What is the weather?")
    assert called.tool_calls[0]["name"] == "weather" and "city" in called.tool_calls[0]["args"]
    assert isinstance(model().with_structured_output(Person).invoke("who?"), Person)


def embeddings():
    embedder = OllamaEmbeddings(model="all-minilm", base_url=URL, **bearer(key))
    vectors = embedder.embed_documents(["one", "two"])
    assert len(vectors) == 2 and embedder.embed_query("two") == vectors[1]


def errors():
    with raises(ollama.ResponseError) as caught:
        model("nothere").invoke("hi")
    assert caught.error.status_code == 404
    with raises(ollama.ResponseError) as caught:
        model(key="sk-wrong").invoke("hi")
    assert caught.error.status_code == 401


def waits_and_breaks():
    faulty = user(FAULTY_URL)
    waited = model("waits", FAULTY_URL, faulty).stream("hi")
    assert "".join(chunk.content for chunk in waited) == WAITED
    with raises(ollama.ResponseError) as caught:
        model("breaks", FAULTY_URL, faulty).invoke("hi")
    assert "incomplete" in caught.error.error


chat_and_stream()
tools_and_structured_output()
embeddings()
errors()
waits_and_breaks()
passed("langchain-ollama")
