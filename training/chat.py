"""Conversations as token ids, the same for SFT and KTO: the ids that the policy read and wrote when it was sampled.

    prompt      <|user|> Please write … <|assistant|>     the template's text up to where an answer begins
    completion  <summary>The report …</answer>            the answer, letter by letter
    end         <|end|>                                   what the template puts after an answer

The end is left out where the policy was cut at the length limit, since it never wrote one.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from builders.core.prompting import chat
from builders.engines import Message
from builders.engines.loading import load_tokenizer_and_config
from builders.engines.prompts import NO_LIMIT, check_template_kwargs, encode_prompts
from scorers.errors import UserError

Messages = Sequence[Message]
ANY_ANSWER: Messages = ({"role": "assistant", "content": "."},)


class Rendered(NamedTuple):
    """One conversation as text: what the policy read, what it wrote, and how the template ends a turn."""

    prompt: str
    answer: str
    end: str


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
    if tokenizer.chat_template is None:
        raise UserError(
            f"tokenizer of {name}: no chat template found; use an instruction-tuned model or add a "
            "chat_template.jinja to its folder"
        )
    try:
        before = tokenizer.apply_chat_template(
            list(prompt), add_generation_prompt=True, tokenize=False, **template_kwargs
        )
        whole = tokenizer.apply_chat_template([*prompt, *completion], tokenize=False, **template_kwargs)
    except TemplateError as error:
        raise UserError(
            f"the chat template of {name} refuses the messages ({' '.join(str(error).split())}); use the roles that "
            "the template knows"
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
            "a template that thinks needs engines.policy.chat_template_kwargs={enable_thinking: false}, another one a "
            "chat_template.jinja without that difference"
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
        template_kwargs: variables of the template; the same as in sampling.
        finished: whether each answer was ended by the policy; False leaves out the end of the turn. None: all were.

    Returns:
        The ids of the prompts and of the completions, by row.

    Raises:
        UserError: as `render`; a variable is none of the template's.
    """
    check_template_kwargs(tokenizer, template_kwargs)
    rows = [render(tokenizer, *row, template_kwargs) for row in zip(prompts, completions, strict=True)]
    ended = [True] * len(rows) if finished is None else finished
    answers = [row.answer + (row.end if whole else "") for row, whole in zip(rows, ended, strict=True)]
    if not rows:
        return [], []
    # The template's text holds the special tokens already.
    texts = list(dict.fromkeys(row.prompt for row in rows))  # a group's rows share theirs
    ids = dict(zip(texts, tokenizer(texts, add_special_tokens=False)["input_ids"], strict=True))
    return [ids[row.prompt] for row in rows], tokenizer(answers, add_special_tokens=False)["input_ids"]


def require_template(
    model: Path, systems: Collection[str], template_kwargs: Mapping[str, Any], *, sampled: bool
) -> None:
    """Check, before data is made for it, that a model's chat template can be trained on; no weights are loaded.

    Conversations of a word each stand for those that training will see.

    Args:
        model: folder of the model.
        systems: the system prompts with which conversations may begin; empty where none does.
        template_kwargs: variables of the template; the same as in sampling.
        sampled: whether the model itself is to answer such prompts before, so that they have to suit sampling too.

    Raises:
        UserError: as `tokenize`, and as `encode_prompts` where `sampled`; the tokenizer cannot be loaded.
    """
    import torch  # noqa: F401 - what training needs is told here too; without it transformers would go on with a warning

    tokenizer, _ = load_tokenizer_and_config(str(model), None)
    prompts = [chat(".", system=system) for system in systems] or [chat(".")]
    if sampled:
        encode_prompts(tokenizer, prompts, range(len(prompts)), 0, NO_LIMIT, template_kwargs)
    tokenize(tokenizer, prompts, [ANY_ANSWER] * len(prompts), template_kwargs)
