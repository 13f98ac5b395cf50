"""The engine that asks a server, against a server on the loopback that answers as each test says."""

import asyncio
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_server import Answer, Body, ChatServer, choices, echo, running
from hypothesis import given
from hypothesis import strategies as st

from builders.engines import Batch, Completion, Message, SamplingSettings
from builders.engines.openai_engine import UNKNOWN_WINDOW, OpenAIEngine, dealt, describe_model
from builders.settings.engines import OpenAIEngineSettings
from scorers.errors import UserError

SETTINGS = SamplingSettings(30, temperature=0.7, top_p=0.9)
SETTING = "engines.policy"


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with running(ChatServer()) as made:
        yield made


def settings_for(server: ChatServer, **changes: Any) -> OpenAIEngineSettings:
    values = {"base_url": server.url, "retries": 0, "timeout": 20.0, **changes}
    return OpenAIEngineSettings(**values)


def ask(server: ChatServer, prompts: list[str], seeds: list[int], **changes: Any) -> list[Completion]:
    engine = OpenAIEngine("writer", settings_for(server, **changes), 4096, SETTING)
    try:
        return engine.generate([user(text) for text in prompts], seeds, SETTINGS)
    finally:
        engine.close()


def user(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def texts(completions: list[Completion]) -> list[str]:
    return [completion.text for completion in completions]


def test_a_group_is_one_request(server: ChatServer) -> None:
    found = ask(server, ["a"] * 3 + ["b"], [2**31 + 5, 6, 7, 8])
    assert texts(found) == ["a/5/0", "a/5/1", "a/5/2", "b/8/0"]
    by_prompt = {body["messages"][0]["content"]: body for body in server.asked}
    shared = {"model": "writer", "temperature": 0.7, "top_p": 0.9, "max_tokens": 30}
    assert by_prompt == {
        "a": {**shared, "messages": user("a"), "seed": 5, "n": 3},
        "b": {**shared, "messages": user("b"), "seed": 8},
    }


def test_prompts_that_are_apart_come_back_in_their_order(server: ChatServer) -> None:
    assert texts(ask(server, ["a", "b", "a"], [1, 2, 3])) == ["a/1/0", "b/2/0", "a/1/1"]


def test_a_server_that_gives_fewer_choices_is_asked_one_by_one_and_told_once(
    server: ChatServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.answer = lambda body: echo({**body, "n": 1})
    with caplog.at_level(logging.WARNING):
        found = ask(server, ["a"] * 3 + ["b"] * 3, [1, 2, 3, 4, 5, 6], concurrency=1)
    assert texts(found) == ["a/1/0", "a/2/0", "a/3/0", "b/4/0", "b/5/0", "b/6/0"]
    assert sum("n" in body for body in server.asked) <= 2 and len(server.asked) == 6
    assert [record.getMessage() for record in caplog.records] == [
        "engine openai: writer gives 1 of 3 choices; further ones are asked one by one"
    ]


def test_a_greedy_prompt_is_asked_once(server: ChatServer) -> None:
    engine = OpenAIEngine("writer", settings_for(server), 4096, SETTING)
    found = engine.generate([user("a"), user("b"), user("a")], [1, 2, 3], SamplingSettings(30, temperature=0.0))
    engine.close()
    assert texts(found) == ["a/1/0", "b/2/0", "a/1/0"] and len(server.asked) == 2
    assert all("n" not in body for body in server.asked)


def test_more_choices_than_asked_are_left(server: ChatServer) -> None:
    server.answer = lambda body: (200, choices("x", "y", "z"))
    assert texts(ask(server, ["a", "a"], [1, 2])) == ["x", "y"]


def test_tokens_of_a_reply_are_dealt_out(server: ChatServer) -> None:
    server.answer = lambda body: (200, choices("x" * 30, "y" * 10, tokens=10))
    found = ask(server, ["a", "a"], [1, 2])
    assert [(c.num_tokens, c.logprob, c.token_ids) for c in found] == [(8, None, None), (2, None, None)]


@given(st.integers(0, 10_000), st.lists(st.integers(0, 500), min_size=1))
def test_shares_add_up(total: int, lengths: list[int]) -> None:
    shares = dealt(total, lengths)
    assert len(shares) == len(lengths) and min(shares) >= 0
    assert sum(shares) == (total if sum(lengths) else 0)


def test_log_probabilities_are_summed_where_they_are_asked_for(server: ChatServer) -> None:
    reply = choices("ab", "c", tokens=3)
    for choice, values in zip(reply["choices"], ([-0.5, -1.25], [-2.0]), strict=True):
        choice["logprobs"] = {"content": [token(value) for value in values]}
    server.answer = lambda body: (200, reply)
    found = ask(server, ["a", "a"], [1, 2], logprobs=True)
    assert [(c.num_tokens, c.logprob) for c in found] == [(2, -1.75), (1, -2.0)]
    assert server.asked[0]["logprobs"] is True


def token(logprob: float) -> Body:
    return {"token": "t", "logprob": logprob, "bytes": None, "top_logprobs": []}


def test_finish_reasons(server: ChatServer) -> None:
    server.answer = lambda body: (200, choices("x", finish=body["messages"][0]["content"]))
    found = ask(server, ["length", "stop", "content_filter"], [1, 2, 3])
    assert [completion.finish_reason for completion in found] == ["length", "stop", "stop"]


@pytest.mark.parametrize(
    "why",
    [
        {"finish_reason": "content_filter"},
        {"message": {"content": None, "refusal": "No."}},
        {"finish_reason": "stop"},  # a thinking model's tokens ended before its answer
    ],
)
def test_an_answer_that_is_withheld_is_empty_and_not_asked_again(server: ChatServer, why: Body) -> None:
    reply = choices("x")
    reply["choices"][0] |= {"message": {"content": None}} | why
    server.answer = lambda body: (200, reply)
    assert ask(server, ["a"], [1]) == [Completion("", "stop", 0)] and len(server.asked) == 1


def test_variables_of_the_template_are_handed_on(server: ChatServer) -> None:
    ask(server, ["a"], [1], chat_template_kwargs={"enable_thinking": False})
    assert server.asked[0]["chat_template_kwargs"] == {"enable_thinking": False}


def test_what_shapes_a_draw_is_handed_on(server: ChatServer) -> None:
    engine = OpenAIEngine("writer", settings_for(server), 4096, SETTING)
    engine.generate([user("a")], [1], SamplingSettings(5, top_k=7, presence_penalty=0.5, stop=("</a>",)))
    engine.generate([user("a")], [1], SamplingSettings(5, pattern="a+"))
    engine.close()
    asked = server.asked[0]
    assert (asked["top_k"], asked["presence_penalty"], asked["stop"]) == (7, 0.5, ["</a>"])
    assert "structured_outputs" not in asked
    assert server.asked[1]["structured_outputs"] == {"regex": "a+"}


def test_no_more_requests_are_under_way_than_allowed(server: ChatServer) -> None:
    server.seconds = 0.02
    prompts = [f"p{i}" for i in range(40)]
    assert texts(ask(server, prompts, list(range(40)), concurrency=7)) == [f"p{i}/{i}/0" for i in range(40)]
    assert 1 < server.most <= 7


def test_small_batches_are_asked_side_by_side(server: ChatServer) -> None:
    """All eight requests of eight batches meet at a barrier, which none of them passes alone."""
    meet = threading.Barrier(8)

    def wait(body: Body) -> Answer:
        meet.wait(20)
        return echo(body)

    server.answer = wait
    engine = OpenAIEngine("writer", settings_for(server), 4096, SETTING)
    batches = iter([(i, Batch([user(f"p{i}")], [i], SETTINGS)) for i in range(8)])
    found = dict(engine.stream(lambda: next(batches, None)))
    engine.close()
    assert {key: texts(answers) for key, answers in found.items()} == {i: [f"p{i}/{i}/0"] for i in range(8)}


def test_inside_a_loop_of_the_callers_own(server: ChatServer) -> None:
    """As in a notebook."""

    async def notebook() -> list[Completion]:
        return ask(server, ["a"], [1])

    assert texts(asyncio.run(notebook())) == ["a/1/0"]


def test_an_engine_is_closed_twice_and_leaves_no_thread(server: ChatServer) -> None:
    engine = OpenAIEngine("writer", settings_for(server), 4096, SETTING)
    engine.generate([user("a")], [1], SETTINGS)
    engine.close()
    engine.close()
    assert "engine openai" not in {thread.name for thread in threading.enumerate()}


def test_an_empty_batch_is_answered(server: ChatServer) -> None:
    assert ask(server, [], []) == [] and server.asked == []


def test_prompts_without_seeds(server: ChatServer) -> None:
    with pytest.raises(ValueError, match="1 prompts and 0 seeds"):
        ask(server, ["a"], [])


def test_failures_are_tried_again_as_often_as_allowed(server: ChatServer) -> None:
    failing = iter([500, 429, 503])

    def answer(body: Body) -> Answer:
        status = next(failing, None)
        return echo(body) if status is None else (status, {"error": {"message": "later"}})

    server.answer = answer
    assert texts(ask(server, ["a"], [1], retries=3)) == ["a/1/0"]
    assert len(server.asked) == 4


def test_the_key_comes_from_the_environment(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUR_KEY", "sk-secret")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    ask(server, ["a"], [1], key_variable="OUR_KEY")
    ask(server, ["a"], [1])
    assert server.keys == ["Bearer sk-secret", "Bearer none"]


@pytest.mark.parametrize("concurrency", [1, 8])
def test_the_other_name_of_the_limit_is_taken_where_a_server_asks_for_it(server: ChatServer, concurrency: int) -> None:
    def answer(body: Body) -> Answer:
        if "max_tokens" in body:
            message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            return 400, {"error": {"message": message}}
        return echo(body)

    server.answer = answer
    server.seconds = 0.05  # so that all are under way before the first is refused
    names = [f"p{i}" for i in range(8)]
    assert texts(ask(server, names, list(range(8)), concurrency=concurrency)) == [f"p{i}/{i}/0" for i in range(8)]
    assert server.asked[-1]["max_completion_tokens"] == 30


CASES: list[tuple[str, Answer, dict[str, Any], str]] = [
    (
        "key",
        (401, {"error": {"message": "bad key sk-secret"}}),
        {},
        "the server refuses the key in OPENAI_API_KEY; set",
    ),
    (
        "refused",
        (400, {"error": {"message": "prompt of 9000\ntokens \x1b[31m" + "x" * 500}}),
        {},
        r"the server answers 400 for writer: Error code: 400 .*9000.*; change what it names, or look at its log",
    ),
    ("busy", (503, {"error": {"message": "busy"}}), {}, "the server answers 503 for writer: .*busy"),
    (
        "cut",
        (200, b'{"choices": [{"mess'),
        {},
        r"the server's answers for writer cannot be read \(.*\); look",
    ),
    ("no reply", (200, {"hello": "you"}), {}, "the server's answers for writer cannot be read"),
    ("no choice", (200, choices()), {}, "the server answered 3 requests to writer without a choice; look at its log"),
]


@pytest.mark.parametrize(("answer", "changes", "message"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_what_goes_wrong_is_one_line(answer: Answer, changes: dict[str, Any], message: str, server: ChatServer) -> None:
    server.answer = lambda body: answer
    with pytest.raises(UserError, match=f"^engines.policy: {message}") as caught:
        ask(server, ["a"], [1], **changes)
    told = str(caught.value)
    assert "\n" not in told and "\x1b" not in told and "sk-secret" not in told and len(told) < 600


def test_a_server_that_does_not_answer_in_time(server: ChatServer) -> None:
    server.seconds = 2.0
    with pytest.raises(UserError, match=r"no answer for writer in 0.2 s, 2 times; raise engines.policy.timeout"):
        ask(server, ["a"], [1], timeout=0.2, retries=1)


def test_a_server_that_is_not_there(server: ChatServer) -> None:
    for work in (
        lambda: ask(server, ["a"], [1], base_url="http://127.0.0.1:9/v1"),
        lambda: describe_model("writer", settings_for(server, base_url="http://127.0.0.1:9/v1"), SETTING),
    ):
        with pytest.raises(UserError, match=r"^engines.policy: the server cannot be reached \(.*\); start it, or look"):
            work()


def test_an_error_ends_the_requests_beside_it(server: ChatServer) -> None:
    def answer(body: Body) -> Answer:
        return echo(body) if body["seed"] else (400, {"error": {"message": "no"}})

    server.answer = answer
    with pytest.raises(UserError, match="answers 400"):
        ask(server, [f"p{i}" for i in range(50)], list(range(50)), concurrency=2)
    assert len(server.asked) < 50


def test_the_identity_is_the_name_and_what_the_server_says(server: ChatServer) -> None:
    model, window = describe_model("writer", settings_for(server), SETTING)
    assert model.id == "writer" and window == UNKNOWN_WINDOW
    assert model.revision.startswith("served-") and len(model.revision) == 23
    # The time does not count; what is said of the model does.
    assert server.models is not None
    server.models[0]["created"] = 2
    assert describe_model("writer", settings_for(server), SETTING)[0] == model
    server.models[0] |= {"root": "other-weights", "max_model_len": 8192}
    other, window = describe_model("writer", settings_for(server), SETTING)
    assert other.revision != model.revision and window == 8192
    assert describe_model("writer", settings_for(server, context_window=900), SETTING)[1] == 900


def test_a_model_that_is_not_there(server: ChatServer) -> None:
    message = r"^engines.policy: the server has no model writr, did you mean writer\?; it has writer: name one of these"
    with pytest.raises(UserError, match=message):
        describe_model("writr", settings_for(server), SETTING)


def test_a_server_that_does_not_tell_its_models(server: ChatServer) -> None:
    server.models = None
    assert describe_model("writer", settings_for(server), SETTING)[0].id == "writer"


def test_address_and_key_are_written_nowhere(server: ChatServer, tmp_path: Path) -> None:
    from builders.settings.base import execution, identity

    found = settings_for(server, key_variable="OUR_KEY")
    written = f"{identity(found)} {execution(found)}"
    assert "127.0.0.1" not in written and "OUR_KEY" not in written and "'concurrency': 64" in written
