"""Ollama's library for Python."""

import ollama
from gateway import FAULTY_URL, URL, WAITED, WEATHER, passed, raises, user

key = user()


def client_of(url: str, key: str) -> ollama.Client:
    return ollama.Client(host=url, headers={"Authorization": f"Bearer {key}"})


client = client_of(URL, key)


def ask(prompt: str) -> list[dict]:
    return [{"role": "user", "content": prompt}]


def chat_and_generate():
    plain = client.chat(model="llama3.2", messages=ask("hello"))
    assert plain.done and plain.eval_count > 0 and plain.prompt_eval_count > 0
    parts = list(client.chat(model="llama3.2", messages=ask("hello"), stream=True))
    assert "".join(part.message.content for part in parts) == plain.message.content
    assert parts[-1].done_reason == "stop" and parts[-1].eval_count == plain.eval_count

    options = {"num_predict": 3, "num_ctx": 8192}
    short = client.generate(model="llama3.2", prompt="[[n=90]]", options=options, keep_alive=0)
    assert (short.eval_count, short.done_reason) == (3, "length")
    assert "".join(part.response for part in client.generate(model="llama3.2", prompt="hi", stream=True))

    tool = {"type": "function", "function": WEATHER}
    called = client.chat(model="llama3.2", messages=ask("What is the weather?"), tools=[tool])
    assert called.message.tool_calls[0].function.name == "weather"
    assert client.chat(model="llama3.2", messages=ask("hi"), format="json").message.content.startswith("{")


def lists():
    assert "llama3.2:latest" in [model.model for model in client.list().models]
    shown = client.show("llama3.2")
    assert "tools" in shown.capabilities and not shown.template and not shown.modelfile
    assert client.ps() is not None


def embeddings():
    two = client.embed(model="all-minilm", input=["one", "two"])
    assert len(two.embeddings) == 2 and two.prompt_eval_count > 0
    assert list(client.embeddings(model="all-minilm", prompt="two").embedding)


def load_and_unload():
    assert client.generate(model="llama3.2").done_reason == "load"
    assert client.generate(model="llama3.2", keep_alive=0).done_reason == "unload"
    assert client.chat(model="llama3.2", messages=[]).done_reason == "load"


def errors():
    with raises(ollama.ResponseError) as caught:
        client.chat(model="nothere", messages=ask("hi"))
    assert caught.error.status_code == 404 and "nothere" in caught.error.error
    with raises(ollama.ResponseError) as caught:
        list(client.chat(model="nothere", messages=ask("hi"), stream=True))
    assert caught.error.status_code == 404 and "nothere" in caught.error.error
    with raises(ollama.ResponseError) as caught:
        client_of(URL, "sk-wrong").list()
    assert caught.error.status_code == 401 and caught.error.error.startswith("Incorrect API key")
    for manage in [
        lambda: client.pull("llama3.2"),
        lambda: client.delete("llama3.2"),
        lambda: client.copy("llama3.2", "x"),
        lambda: client.create("x", from_="llama3.2"),
    ]:
        with raises(ollama.ResponseError) as caught:
            manage()
        assert caught.error.status_code == 403 and "operator" in caught.error.error


def key_in_the_path():
    keyed = ollama.Client(host=f"{URL}/k/{key}")
    assert keyed.chat(model="llama3.2", messages=ask("[[n=1]]")).message.content
    assert keyed.list().models


def waits_and_breaks():
    faulty = client_of(FAULTY_URL, user(FAULTY_URL))
    waited = faulty.chat(model="waits", messages=ask("hi"), stream=True)
    assert "".join(part.message.content for part in waited) == WAITED
    seen = []
    with raises(ollama.ResponseError) as caught:
        for part in faulty.chat(model="breaks", messages=ask("hi"), stream=True):
            seen.append(part.message.content)
    assert seen == ["one", " two", " three"] and "incomplete" in caught.error.error


chat_and_generate()
lists()
embeddings()
load_and_unload()
errors()
key_in_the_path()
waits_and_breaks()
passed("ollama")
