"""Is what comes through the gateway what the engine says? A hundred bodies over every route that the engine has.

What may differ is in docs/use.md, "What is changed on the way": of an answer, only its `id`. Times and dates differ from
one answer to the next, whoever is asked.
"""

import itertools

import pytest
from engines import EMBEDDER, MODEL, events
from test_answers import COLOURS, TOOL, lasting, text_of, usage

PROMPTS = ["Say hello", "Grüße 🌍 — こんにちは", "Count: one, two,", "Why is the sky blue?\n\nBe brief.", "\t \"quoted\" \\ text"]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "colour", "schema": {"enum": COLOURS}}}
PLAIN = {"model": MODEL, "temperature": 0}
CHATS = [
    {}, {"seed": 7}, {"stop": ["e"]}, {"stop": "o"}, {"top_p": 0.5}, {"frequency_penalty": 0.5}, {"presence_penalty": -0.5},
    {"max_completion_tokens": 3, "max_tokens": None}, {"n": 1}, {"user": "ann", "metadata": {"a": "b"}}, {"unknown": [1, {"a": None}]},
]
OTHERS = [
    {"tools": [TOOL]}, {"response_format": SCHEMA}, {"response_format": {"type": "json_object"}}, {"logprobs": True, "top_logprobs": 2},
    {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who are you?"}]},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"},
                  {"role": "user", "content": "And now?"}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "In"}, {"type": "text", "text": "parts"}]}]},
]

# What is changed on the way does not depend on the kind of node; the other tests are run with both kinds.
pytestmark = pytest.mark.parametrize("kind", ["openai"], indirect=True, scope="session")


def bodies() -> dict[str, tuple[str, dict]]:
    """Path and body by a name that says what is special."""
    found = {}
    for (number, prompt), (index, more) in itertools.product(enumerate(PROMPTS), enumerate(CHATS)):
        chat = PLAIN | {"messages": [{"role": "user", "content": prompt}], "max_tokens": 5} | more
        found[f"chat-{number}-{index}"] = ("/v1/chat/completions", chat)
    for index, more in enumerate(OTHERS):
        chat = PLAIN | {"messages": [{"role": "user", "content": "Paris?"}], "max_tokens": 8} | more
        found[f"chat-other-{index}"] = ("/v1/chat/completions", chat)
    for number, prompt in enumerate(PROMPTS):
        for index, more in enumerate([{}, {"stop": ["e"]}, {"seed": 3, "top_p": 0.9}]):
            found[f"text-{number}-{index}"] = ("/v1/completions", PLAIN | {"prompt": prompt, "max_tokens": 5} | more)
        for index, more in enumerate([{}, {"instructions": "Be brief."}]):
            found[f"responses-{number}-{index}"] = ("/v1/responses", PLAIN | {"input": prompt, "max_output_tokens": 5} | more)
        for index, more in enumerate([{}, {"system": "Be brief.", "stop_sequences": ["e"]}]):
            message = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 5}
            found[f"messages-{number}-{index}"] = ("/v1/messages", PLAIN | message | more)
        found[f"embeddings-{number}"] = ("/v1/embeddings", {"model": EMBEDDER, "input": [prompt, "another"]})
    return found


@pytest.mark.parametrize("name", bodies())
def test_through_the_gateway_is_as_direct(fleet, engines, name):
    assert len(bodies()) >= 100
    path, body = bodies()[name]
    # An engine may say something else once it has the prompt in its cache, whoever asks.
    for is_last in (False, False, True):
        answer = fleet.post(path, body)
        node = answer.headers.get("x-gateway-node", "north")
        direct = engines[node].post(path, body)
        assert (answer.status_code, direct.status_code) == (200, 200), (answer.text, direct.text)
        through, straight = [lasting(said.json()) | {"model": ""} for said in (answer, direct)]
        if through == straight or is_last:
            break
    assert through == straight
    assert usage(answer.json()) == usage(direct.json())


@pytest.mark.parametrize("name", [name for name in bodies() if name.endswith("-0") and "embeddings" not in name])
def test_a_stream_through_the_gateway_is_as_direct(fleet, engines, name):
    path, body = bodies()[name]
    body = body | {"stream": True}
    answer = fleet.post(path, body, stream=True)
    assert answer.status_code == 200
    through = [event for _, event in events(answer)]
    direct = [event for _, event in events(engines[answer.headers["x-gateway-node"]].post(path, body, stream=True))]
    assert text_of(through) == text_of(direct)
    # No event is lost or added, other than the usage that the gateway asked for.
    kinds = lambda told: [each.get("type", "chunk") for each in told if each.get("choices") != []]
    assert kinds(through) == kinds(direct)
