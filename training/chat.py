"""Conversations as token ids, the same for SFT and KTO: the ids that the policy read and wrote when it was sampled.

    prompt      <|user|> Please write … <|assistant|>     the template's text up to where an answer begins
    completion  <summary>The report …</answer>            the answer, letter by letter
    end         <|end|>                                   what the template puts after an answer

The end is left out where the policy was cut at the length limit, since it never wrote one.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from builders.core.models import LocalModel
from builders.engines import Message, end_token_ids
from builders.engines.loading import load_end_ids, load_tokenizer_and_config
from builders.engines.prompts import apply_template, check_system_prompt, check_template_kwargs, template_of
from builders.settings.engines import LocalEngineSettings
from scorers.errors import UserError

Messages = Sequence[Message]
ANY_ANSWER: Messages = ({"role": "assistant", "content": "."},)


class Rendered(NamedTuple):
    """One conversation as text: what the policy read, what it wrote, and how the template ends a turn."""

    prompt: str
    answer: str
    end: str


def forget_how_loaded(tokenizer: Any) -> None:
    """Drop what a tokenizer, or a processor's, keeps of how it was loaded, from a folder or offline.

    transformers would save it with the tokenizer, and the same training would give files with another digest.
    """
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    for name in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(name, None)


def render(tokenizer: Any, prompt: Messages, completion: Messages, template_kwargs: Mapping[str, Any]) -> Rendered:
    """Render a prompt and its answer by the chat template, so that the first two parts are what sampling saw.

    Args:
        tokenizer: a tokenizer with a chat template.
        prompt: the messages before the answer.
        completion: one assistant message.
        template_kwargs: variables of the template, such as `enable_thinking`; the same as in sampling.

    Raises:
        UserError: there is no chat template; the template refuses the messages; its rendering of the conversation is
            not its prompt followed by the answer, so that training would see another text than the policy wrote.
    """
    from jinja2 import TemplateError

    name = tokenizer.name_or_path
    template_of(tokenizer)
    try:
        before = apply_template(tokenizer, prompt, template_kwargs, add_generation_prompt=True, tokenize=False)
        whole = apply_template(tokenizer, [*prompt, *completion], template_kwargs, tokenize=False)
    except TemplateError as error:
        raise UserError(
            f"the chat template of {name} refuses the messages ({' '.join(str(error).split())}); use the roles that "
            "the template knows, or set engines.policy.chat_template=FILE, one that knows them"
        ) from error
    answer = "".join(message["content"] for message in completion)
    core = answer.strip()
    if not core:  # nothing of it can be found in the template's text, so another answer tells how a turn ends
        return Rendered(before, answer, render(tokenizer, prompt, ANY_ANSWER, template_kwargs).end)
    rest = whole.removeprefix(before)
    # Many templates strip an answer's white space, or put some before it; what the policy wrote is the answer as it
    # stands, right after the prompt.
    space, found, after = rest.partition(core)
    if not whole.startswith(before) or not found or space.strip():
        # Where the two texts part: within the prompt, or right after it.
        same = next((n for n, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), len(before))
        raise UserError(
            f"the chat template of {name} renders an answered prompt otherwise than the prompt followed by the answer "
            f"(it has {whole[same : same + 40]!r} where {(before + answer)[same : same + 40]!r} was expected); "
            "a template that thinks needs engines.policy.chat_template_kwargs={enable_thinking: false}, another one "
            "engines.policy.chat_template=FILE, a template without that difference"
        )
    end = after.removeprefix(answer[len(answer.rstrip()) :])
    # Sampling stops at the token that ends a turn; a line break that the template puts after it is never written.
    return Rendered(before, answer, end.rstrip())


def tokenize(
    tokenizer: Any,
    prompts: Sequence[Messages],
    completions: Sequence[Messages],
    template_kwargs: Mapping[str, Any],
    finished: Sequence[bool] | None = None,
) -> tuple[list[list[int]], list[list[int]]]:
    """Tokenize conversations; prompt and completion apart, so that no token spans the boundary, as in sampling.

    Args:
        tokenizer: a tokenizer with a chat template.
        prompts: the messages before each answer.
        completions: one assistant message each.
        template_kwargs: variables of the template, the same as in sampling; the text `chat_template` among them takes
            the place of the tokenizer's template.
        finished: whether each answer was ended by the policy; False leaves out the end of the turn. None: all were.

    Returns:
        The ids of the prompts and of the completions, by row.

    Raises:
        UserError: as `render`; a variable is none of the template's; the template leaves out the system prompt, as it
            would in sampling.
    """
    tokenizer, template_kwargs = with_template(tokenizer, template_kwargs)
    check_template_kwargs(tokenizer, template_kwargs)
    with_system = next((prompt for prompt in prompts if any(message["role"] == "system" for message in prompt)), None)
    if with_system is not None:
        template_of(tokenizer)
        check_system_prompt(tokenizer, with_system, template_kwargs)
    rows = [render(tokenizer, *row, template_kwargs) for row in zip(prompts, completions, strict=True)]
    ended = [True] * len(rows) if finished is None else finished
    answers = [row.answer + (row.end if whole else "") for row, whole in zip(rows, ended, strict=True)]
    if not rows:
        return [], []
    # The template's text holds the special tokens already.
    texts = list(dict.fromkeys(row.prompt for row in rows))  # a group's rows share theirs
    ids = dict(zip(texts, tokenizer(texts, add_special_tokens=False)["input_ids"], strict=True))
    return [ids[row.prompt] for row in rows], tokenizer(answers, add_special_tokens=False)["input_ids"]


def template_options(engine: LocalEngineSettings) -> dict[str, Any]:
    """Return the variables of an engine's chat template, and as `chat_template` the template itself if one is set."""
    own = {} if engine.chat_template is None else {"chat_template": engine.chat_template}
    return {**engine.chat_template_kwargs, **own}


def with_template(tokenizer: Any, template_kwargs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return a tokenizer with the template `chat_template` of the variables, if there is one, and the other variables.

    The tokenizer given stays as it is.
    """
    variables = dict(template_kwargs)
    template = variables.pop("chat_template", None)
    if template is not None:
        tokenizer = copy.copy(tokenizer)
        tokenizer.chat_template = template
    return tokenizer, variables


def require_answers(engine: LocalEngineSettings, model: LocalModel) -> None:
    """Check, by its tokenizer alone, that a model can be trained on answers under the template that sampling uses.

    Raises:
        UserError: as `require_end`.
    """
    tokenizer, config = load_tokenizer_and_config(str(model.path), None, engine.chat_template)
    require_end(tokenizer, load_end_ids(str(model.path), None, config), engine.chat_template_kwargs)


def require_rendering(engine: LocalEngineSettings, model: LocalModel) -> None:
    """Check, by its tokenizer alone, that a model's template renders an answered prompt as sampling sees it.

    Raises:
        UserError: as `render`.
    """
    tokenizer, _ = load_tokenizer_and_config(str(model.path), None, engine.chat_template)
    render(tokenizer, [{"role": "user", "content": "."}], ANY_ANSWER, engine.chat_template_kwargs)


def require_end(tokenizer: Any, generation_eos: int | Sequence[int] | None, template_kwargs: Mapping[str, Any]) -> None:
    """Check that the template ends an answer with a token at which sampling stops, so that the policy learns to end.

    Args:
        tokenizer: a tokenizer with a chat template.
        generation_eos: the end-of-sequence ids of the model's generation settings.
        template_kwargs: variables of the template, without `chat_template`.

    Raises:
        UserError: it does not; as `render`.
    """
    end = render(tokenizer, [{"role": "user", "content": "."}], ANY_ANSWER, template_kwargs).end
    stops = end_token_ids(tokenizer, generation_eos)
    if not set(tokenizer(end, add_special_tokens=False)["input_ids"]) & set(stops):
        names = ", ".join(tokenizer.convert_ids_to_tokens(stops)) or "none"
        raise UserError(
            f"the chat template of {tokenizer.name_or_path} ends an answer with {end!r}, without an end-of-sequence "
            f"token ({names}), so the policy would never stop; set engines.policy.chat_template=FILE, a template that "
            "ends an answer with {{ eos_token }}"
        )
