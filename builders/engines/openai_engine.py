"""The sampling engine that asks a server by OpenAI's chat completions: a paid interface, or a server of one's own.

Requests are under way side by side, at most `concurrency` of them; the client tries a failed one again by itself. The
prompts of a batch that are equal, such as those of a group, are asked together as `n` choices of one request; from a
server that gives fewer, the rest is asked one by one.

    {"model": "…", "messages": […], "n": 8, "seed": 812…, "temperature": 1.0, "top_p": 0.9, "max_tokens": 8192}
    →  {"choices": [{"message": {"content": "<summary>…"}, "finish_reason": "stop"}, …],
        "usage": {"completion_tokens": 751}}
"""

import asyncio
import contextlib
import hashlib
import itertools
import json
import logging
import math
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builders.engines import Batch, Completion, Message, More, SamplingSettings, all_at_once, require_seeds
from builders.engines.serving import address_of
from builders.store.manifest import Model
from scorers.errors import UserError, did_you_mean, plain

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from builders.settings.engines import OpenAIEngineSettings

UNKNOWN_WINDOW = 2**31
"""Tokens, where neither the settings nor the server say how large the window is; the server refuses what is longer."""
SEEDS = 2**31
"""Servers take seeds below this."""
TRIES = 3
"""Requests for one choice, where a server answers with none or with what cannot be read."""
LIMITS = ("max_tokens", "max_completion_tokens")
"""Names of the limit on generated tokens: the one every server knows, and the one OpenAI's reasoning models ask for."""
NO_KEY = "none"
SAID = 300
"""Characters of a server's message that are shown."""

log = logging.getLogger(__name__)


def describe_model(name: str, settings: "OpenAIEngineSettings", setting: str) -> tuple[Model, int]:
    """Ask a server about a model.

    Args:
        name: the model's name there.
        settings: the engine's.
        setting: path of its section, for messages.

    Returns:
        Its identity, the name with a digest of what the server says of the model, which leaves out its address and the
        time; and its context window in tokens.

    Raises:
        UserError: the server cannot be reached, refuses the key, or has no such model.
    """
    import openai

    with _client(openai.OpenAI, settings, setting) as client, _as_user_errors(setting, settings, name):
        try:
            known = {model.id: model.model_dump() for model in client.models.list()}
        except openai.NotFoundError:  # a server that does not tell its models
            known = {name: {"id": name}}
    if name not in known:
        raise UserError(
            f"{setting}: the server has no model {name}{did_you_mean(name, known)}; it has "
            f"{', '.join(sorted(known)[:10]) or 'none'}: name one of these in models"
        )
    found = known[name]
    told = {key: found[key] for key in ("id", "owned_by", "root", "parent", "max_model_len") if found.get(key)}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    window = settings.context_window or found.get("max_model_len") or UNKNOWN_WINDOW
    return Model(id=name, revision=f"served-{digest[:16]}"), int(window)


@dataclass
class _Open:
    """A batch under way: its completions so far, and how many of its requests are not done."""

    key: Any
    batch: Batch
    completions: list[Completion | None]
    missing: int


class OpenAIEngine:
    """A model on a server.

    Args:
        name: the model's name there.
        settings: the engine's.
        window: the context window in tokens.
        setting: path of the settings' section, for messages.
    """

    tokenizer = None
    """The server's own, which it does not tell."""

    def __init__(self, name: str, settings: "OpenAIEngineSettings", window: int, setting: str) -> None:
        self.context_window = window
        self._name, self._settings, self._setting = name, settings, setting
        # Requests run in a thread of their own: they go on while shards are written, and a caller may have a loop.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="engine openai", daemon=True)
        self._thread.start()
        self._made: AsyncOpenAI | None = None
        self._under_way = asyncio.Semaphore(settings.concurrency)
        self._several = True  # whether the server gives as many choices as it is asked for
        self._limit = LIMITS[0]

    def generate(
        self, prompts: Sequence[Sequence[Message]], seeds: Sequence[int], settings: SamplingSettings
    ) -> list[Completion]:
        """Generate one completion per prompt, in the order of the prompts; see `Engine.generate`."""
        return all_at_once(self, Batch(prompts, seeds, settings))

    def stream(self, more: More) -> Iterator[tuple[Any, list[Completion]]]:
        """Keep `concurrency` requests under way; see `Engine.stream`."""
        running: dict[Future[None], _Open] = {}
        try:
            while True:
                while len(running) < 2 * self._settings.concurrency and (found := more()) is not None:
                    key, batch = found
                    if not batch.prompts:
                        yield key, []
                    running |= self._begin(key, batch)
                if not running:
                    return
                done = wait(running, return_when=FIRST_COMPLETED).done
                for request in [request for request in running if request in done]:
                    answer = running.pop(request)
                    request.result()  # raises what the request raised
                    answer.missing -= 1
                    if not answer.missing:
                        yield answer.key, [found for found in answer.completions if found is not None]
        finally:
            for request in running:  # an error, or nobody asks on
                request.cancel()

    def _begin(self, key: Any, batch: Batch) -> "dict[Future[None], _Open]":
        """Begin a batch's requests: one for the rows with the same prompt."""
        require_seeds(batch.prompts, batch.seeds)
        groups: dict[tuple[tuple[str, str], ...], list[int]] = {}
        for row, prompt in enumerate(batch.prompts):
            groups.setdefault(tuple((message["role"], message["content"]) for message in prompt), []).append(row)
        answer = _Open(key, batch, [None] * len(batch.prompts), len(groups))
        return {
            asyncio.run_coroutine_threadsafe(self._answer(answer, rows), self._loop): answer for rows in groups.values()
        }

    async def _answer(self, answer: _Open, rows: Sequence[int]) -> None:
        """Ask for the completions of the rows with the same prompt and keep them."""
        if answer.batch.settings.temperature == 0:  # all of them are the same, and servers refuse to say it n times
            await self._one(answer, rows[0])
            for row in rows[1:]:
                answer.completions[row] = answer.completions[rows[0]]
            return
        if self._several and len(rows) > 1:
            choices = await self._ask(answer.batch, rows)
            self._keep(answer, rows, choices)
            if len(choices) < len(rows):
                if self._several:
                    log.warning(
                        "engine openai: %s gives %d of %d choices; further ones are asked one by one",
                        *(self._name, len(choices), len(rows)),
                    )
                self._several = False
        rest = [row for row in rows if answer.completions[row] is None]
        await asyncio.gather(*(self._one(answer, row) for row in rest))

    async def _one(self, answer: _Open, row: int) -> None:
        """Ask for the completion of one row, again where there is none."""
        for _ in range(TRIES):
            self._keep(answer, [row], await self._ask(answer.batch, [row]))
            if answer.completions[row] is not None:
                return
        raise UserError(
            f"{self._setting}: the server answered {TRIES} requests to {self._name} without a choice; look at its log"
        )

    def _keep(self, answer: _Open, rows: Sequence[int], choices: Sequence[Completion]) -> None:
        """Keep the choices of a request, row by row."""
        for row, choice in zip(rows, choices, strict=False):
            answer.completions[row] = choice

    async def _ask(self, batch: Batch, rows: Sequence[int]) -> list[Completion]:
        """Send one request and read its choices, of which there may be fewer than rows.

        Raises:
            UserError: the server refuses, cannot be reached, or answers with what is no completion.
        """
        import openai

        async with self._under_way:
            for _ in range(TRIES):
                request = self._request(batch, rows)
                with _as_user_errors(self._setting, self._settings, self._name):
                    try:
                        reply = await self._client().chat.completions.create(**request)
                        return completions_of(reply, self._name)
                    except openai.BadRequestError as error:
                        # OpenAI's reasoning models know the limit by its other name alone.
                        if LIMITS[0] not in request or LIMITS[1] not in str(error.message):
                            raise
                        self._limit = LIMITS[1]
                    except (ValueError, TypeError, AttributeError, KeyError) as error:
                        unreadable = error  # JSON that was cut, or that is no completion
            raise UserError(
                f"{self._setting}: the server's answers for {self._name} cannot be read ({unreadable}); look at its log"
            )

    def _request(self, batch: Batch, rows: Sequence[int]) -> dict[str, Any]:
        """The arguments of one request for the completions of rows with the same prompt."""
        settings = batch.settings
        request: dict[str, Any] = {
            "model": self._name,
            "messages": list(batch.prompts[rows[0]]),
            "seed": int(batch.seeds[rows[0]]) % SEEDS,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            self._limit: settings.max_new_tokens,
        }
        if len(rows) > 1:
            request["n"] = len(rows)
        if settings.presence_penalty:
            request["presence_penalty"] = settings.presence_penalty
        if settings.stop:
            request["stop"] = list(settings.stop)
        if self._settings.logprobs:
            request["logprobs"] = True
        # What OpenAI does not have and other servers know by these names.
        more = {
            "top_k": settings.top_k,
            "chat_template_kwargs": self._settings.chat_template_kwargs,
            "structured_outputs": settings.pattern and {"regex": settings.pattern},  # as vLLM's server calls it
        }
        if any(more.values()):
            request["extra_body"] = {name: value for name, value in more.items() if value}
        return request

    def _client(self) -> "AsyncOpenAI":
        """The client, made on first use."""
        import openai

        if self._made is None:
            self._made = _client(openai.AsyncOpenAI, self._settings, self._setting)
        return self._made

    def close(self) -> None:
        """Close the connections and end the thread."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        """Wait for what was cancelled and close the connections."""
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)
        if self._made is not None:
            await self._made.close()


def completions_of(reply: Any, name: str) -> list[Completion]:
    """Read the choices of a reply.

    A server tells the tokens of all choices together. Without log-probabilities, which tell those of each, they are
    dealt out by the length of the texts.

    Args:
        reply: the client's object.
        name: the model's name.

    Returns:
        One completion per choice, an empty one where the server withholds its text, or where a thinking model's tokens
        ended before its answer; `token_ids` is None.

    Raises:
        AttributeError, TypeError, ValueError: for what is no reply.
    """
    choices = [choice for choice in reply.choices if isinstance(choice.message.content, str | None)]
    # Half a character, which a server may leave at the end of a text that it cuts, cannot be written.
    texts = [(choice.message.content or "").encode("utf-8", "replace").decode() for choice in choices]
    if reply.usage is None:
        raise ValueError("they have no usage, so nobody knows how many tokens they are")
    counts = dealt(int(reply.usage.completion_tokens), [len(text) for text in texts])
    completions = []
    for choice, text, count in zip(choices, texts, counts, strict=True):
        tokens = choice.logprobs.content if choice.logprobs is not None else None
        logprob = math.fsum(token.logprob for token in tokens) if tokens else None
        if logprob is not None and not math.isfinite(logprob):
            raise UserError(f"the server gives a log-probability of {logprob} for {name}; look at the model")
        completions.append(
            Completion(
                text,
                "length" if choice.finish_reason == "length" else "stop",
                len(tokens) if tokens else count,
                logprob=logprob,
            )
        )
    return completions


def dealt(total: int, lengths: Sequence[int]) -> list[int]:
    """Deal a number of tokens out to texts by their lengths in characters; the shares add up to the number.

    >>> dealt(10, [30, 10, 0]), dealt(3, [5]), dealt(0, [])
    ([8, 2, 0], [3], [])
    """
    whole = sum(lengths)
    ends = [round(total * part / whole) if whole else 0 for part in itertools.accumulate(lengths)]
    return [end - start for start, end in itertools.pairwise([0, *ends])]


def _client(kind: Any, settings: "OpenAIEngineSettings", setting: str) -> Any:
    """Return a client of the openai library, synchronous or not; a server of this run's own is started first."""
    own = settings.serve and address_of(settings.serve, setting, settings.timeout)
    return kind(
        # A server of one's own asks for no key, the client does.
        api_key=os.environ.get(settings.key_variable) or NO_KEY,
        base_url=own or settings.base_url,
        max_retries=settings.retries,
        timeout=settings.timeout,
    )


@contextlib.contextmanager
def _as_user_errors(setting: str, settings: "OpenAIEngineSettings", name: str) -> Iterator[None]:
    """Turn what the client raises into one line. Its text comes from the server: it is cut, and no key is in it."""
    import openai

    try:
        yield
    except openai.AuthenticationError:
        raise UserError(
            f"{setting}: the server refuses the key in {settings.key_variable}; set that variable to a key of its own"
        ) from None
    except openai.APITimeoutError:
        raise UserError(
            f"{setting}: no answer for {name} in {settings.timeout:g} s, {settings.retries + 1} times; raise "
            f"{setting}.timeout or lower {setting}.concurrency"
        ) from None
    except openai.APIConnectionError as error:
        raise UserError(
            f"{setting}: the server cannot be reached ({type(error.__cause__ or error).__name__}); start it, or look "
            f"at {setting}.base_url"
        ) from None
    except openai.APIStatusError as error:
        said = " ".join(str(error.message).split())[:SAID]
        raise UserError(
            f"{setting}: the server answers {error.status_code} for {name}: {plain(said)}; change what it names, or "
            "look at its log"
        ) from None
