"""Chat messages as the token ids that a model reads, by its own chat template.

    messages            [{"role": "user", "content": "Please write …"}]
    template variables  {"enable_thinking": False}
    token ids           of `<|user|> Please write … <|assistant|>`, ending where the model's answer begins

The template's text holds all special tokens, a beginning-of-sequence token too, so the tokenizer adds none.
"""

import inspect
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, meta, nodes
from jinja2.defaults import DEFAULT_NAMESPACE
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from builders.engines import POLICY, Message, Windowed, require_seeds
from scorers.errors import UserError, did_you_mean

# Names that transformers gives to every template, beside the arguments of apply_chat_template and the special tokens.
GIVEN = {"messages", "raise_exception", "strftime_now"}
DATE = datetime(2024, 7, 26)  # the day that templates which write one fall back to where they are given no clock
TEMPLATE_TOKENS = 1024  # more than a chat template puts around a prompt
NO_LIMIT = 2**62  # tokens


class GenerationBlock(Extension):
    """Reads transformers' block `generation`, which marks the assistant's part of a template, as its plain body."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return the nodes of the block's body."""
        next(parser.stream)  # the tag's own name
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def encode_prompts(
    tokenizer: Any,
    prompts: Sequence[Sequence[Message]],
    seeds: Sequence[int],
    max_new_tokens: int,
    window: int,
    template_kwargs: Mapping[str, Any],
    setting: str = POLICY,
) -> list[list[int]]:
    """Return the token ids of each prompt under the chat template, ending where the assistant's answer begins.

    Args:
        tokenizer: the model's tokenizer.
        prompts: the chat messages of each prompt.
        seeds: one seed per prompt; only their number is checked.
        max_new_tokens: tokens for which the window has to have room after each prompt.
        window: the context window in tokens.
        template_kwargs: variables of the template.
        setting: path of the engine's section, for messages.

    Raises:
        ValueError: where prompts and seeds differ in number.
        UserError: for a tokenizer without a chat template, a template that leaves out the system prompt, and for a
            prompt that is empty, that the template refuses, or that leaves no room for `max_new_tokens`.
    """
    require_seeds(prompts, seeds)
    template_of(tokenizer, setting)
    with_system = next((prompt for prompt in prompts if any(message["role"] == "system" for message in prompt)), None)
    if with_system is not None:
        check_system_prompt(tokenizer, with_system, template_kwargs, setting)
    # A group repeats its prompt m times: each distinct prompt is encoded once.
    known: dict[tuple[tuple[str, str], ...], list[int]] = {}
    encoded = []
    for row, prompt in enumerate(prompts):
        key = tuple((message["role"], message["content"]) for message in prompt)
        if key not in known:
            known[key] = _encode(tokenizer, prompt, row, max_new_tokens, window, template_kwargs, setting)
        encoded.append(known[key])
    return encoded


def fits_window(
    engine: Windowed, prompt: Sequence[Message], max_new_tokens: int, template_kwargs: Mapping[str, Any]
) -> bool:
    """Whether a prompt leaves room for `max_new_tokens` in an engine's context window.

    An engine without a tokenizer, as a server's, is not asked: every prompt counts as fitting.

    Raises:
        UserError: as `encode_prompts`, but for a prompt that is too long.
    """
    room = engine.context_window - max_new_tokens
    # No token is shorter than a byte, so most prompts need not be encoded here.
    size = sum(len(message["content"].encode()) for message in prompt)
    if engine.tokenizer is None or size + TEMPLATE_TOKENS <= room:
        return True
    return len(encode_prompts(engine.tokenizer, [prompt], [0], 0, NO_LIMIT, template_kwargs)[0]) <= room


def prompt_ends_with(tokenizer: Any, prompt: Sequence[Message], template_kwargs: Mapping[str, Any], text: str) -> bool:
    """Whether a prompt's last characters under the chat template, white space aside, are a text, such as `<think>`.

    Raises:
        jinja2.TemplateError: for messages that the template refuses.
    """
    return _render(tokenizer, prompt, template_kwargs).rstrip().endswith(text)


def template_of(tokenizer: Any, setting: str = POLICY) -> str:
    """Return the text of a tokenizer's chat template; `setting` is the path of the engine's section, for messages.

    Raises:
        UserError: for a tokenizer without one.
    """
    if tokenizer.chat_template is None:
        raise UserError(
            f"tokenizer of {tokenizer.name_or_path}: no chat template found; set {setting}.chat_template=FILE, a "
            "Jinja file, or use an instruction-tuned model"
        )
    text: str = tokenizer.get_chat_template()
    return text


def check_template_kwargs(tokenizer: Any, template_kwargs: Mapping[str, Any], setting: str = POLICY) -> dict[str, Any]:
    """Check that a chat template uses the variables that it is given; transformers drops others without a word.

    Args:
        tokenizer: the model's tokenizer.
        template_kwargs: variables by name; with none nothing is checked, not even that there is a template.
        setting: path of the engine's section, for messages.

    Returns:
        The variables.

    Raises:
        UserError: for a name that the template does not use; the message lists those that it uses.
    """
    if template_kwargs:
        variables = template_variables(tokenizer, setting)
        for name in template_kwargs:
            if name not in variables:
                near, known = did_you_mean(name, variables), ", ".join(variables) or "none"
                raise UserError(
                    f"{setting}.chat_template_kwargs: {name} is no variable of the chat template of "
                    f"{tokenizer.name_or_path}{near}; variables: {known}"
                )
    return dict(template_kwargs)


def check_template(
    tokenizer: Any, prompts: Sequence[Sequence[Message]], template_kwargs: Mapping[str, Any], setting: str = POLICY
) -> None:
    """Check that a tokenizer's chat template can render prompts.

    Args:
        tokenizer: the model's tokenizer.
        prompts: the chat messages of each prompt.
        template_kwargs: variables of the template.
        setting: path of the engine's section, for messages.

    Raises:
        UserError: there is no template, or it is none of Jinja2's; a variable is not the template's; the template
            refuses or leaves out the system prompt, or refuses a prompt.
    """
    template_variables(tokenizer, setting)
    check_template_kwargs(tokenizer, template_kwargs, setting)
    encode_prompts(tokenizer, prompts, [0] * len(prompts), 0, sys.maxsize, template_kwargs, setting)


def template_variables(tokenizer: Any, setting: str = POLICY) -> list[str]:
    """Return the names of the variables that a user can set in a tokenizer's chat template, in alphabetical order.

    Args:
        tokenizer: the model's tokenizer.
        setting: path of the engine's section, for messages.

    Raises:
        UserError: for a tokenizer without a chat template, and for one that is no Jinja2 template.
    """
    try:
        tree = ImmutableSandboxedEnvironment(extensions=[loopcontrols, GenerationBlock]).parse(
            template_of(tokenizer, setting)
        )
        variables = meta.find_undeclared_variables(tree)
    except TemplateSyntaxError as error:
        raise UserError(
            f"the chat template of {tokenizer.name_or_path} is no Jinja2 template ({error}); correct it"
        ) from error
    given = {*inspect.signature(tokenizer.apply_chat_template).parameters, *tokenizer.SPECIAL_TOKENS_ATTRIBUTES, *GIVEN}
    return sorted(variables - given - DEFAULT_NAMESPACE.keys())


def apply_template(
    tokenizer: Any, messages: Sequence[Message], template_kwargs: Mapping[str, Any], **options: Any
) -> Any:
    """Return what `apply_chat_template` makes of messages; the clock that a template may read stands still at `DATE`.

    With the machine's clock the same inputs would give other prompts on another day, and in a run across midnight.

    Args:
        tokenizer: a tokenizer with a chat template.
        messages: the conversation.
        template_kwargs: variables of the template.
        options: of `apply_chat_template`.

    Raises:
        jinja2.TemplateError: for messages that the template refuses, and for whatever else goes wrong in it.
    """
    try:
        return tokenizer.apply_chat_template(list(messages), strftime_now=DATE.strftime, **template_kwargs, **options)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        # Templates are other people's programs; these are what Jinja2's operators and filters raise.
        raise TemplateError(f"{type(error).__name__}: {error}") from error


def _render(tokenizer: Any, prompt: Sequence[Message], template_kwargs: Mapping[str, Any]) -> str:
    """Return the text of one prompt under the chat template."""
    text: str = apply_template(tokenizer, prompt, template_kwargs, tokenize=False, add_generation_prompt=True)
    return text


def check_system_prompt(
    tokenizer: Any, prompt: Sequence[Message], template_kwargs: Mapping[str, Any], setting: str = POLICY
) -> None:
    """Check that the template has a place for the system prompt: some refuse it, others leave it out.

    Args:
        tokenizer: the model's tokenizer.
        prompt: messages with a system message.
        template_kwargs: variables of the template.
        setting: path of the engine's section, for messages.

    Raises:
        UserError: for a prompt that is refused because of its system message, or whose text is the same without it.
    """
    try:
        without = _render(tokenizer, [message for message in prompt if message["role"] != "system"], template_kwargs)
    except TemplateError:
        return  # the fault lies elsewhere, and rendering the whole prompt tells it
    try:
        fault = "leaves it out" if _render(tokenizer, prompt, template_kwargs) == without else None
    except TemplateError as error:
        fault = f"refuses it ({' '.join(str(error).split())})"
    if fault:
        raise UserError(
            f"system prompt: the chat template of {tokenizer.name_or_path} {fault}; set sample.system_prompt: null, or "
            f"{setting}.chat_template: FILE, a template with a system role"
        )


def _encode(
    tokenizer: Any,
    prompt: Sequence[Message],
    row: int,
    max_new_tokens: int,
    window: int,
    template_kwargs: Mapping[str, Any],
    setting: str,
) -> list[int]:
    """Return the token ids of one prompt.

    Raises:
        UserError: naming the row, for a prompt that is empty, refused by the template, or too long.
    """
    try:
        # return_dict=False: transformers 5 returns a dictionary by default.
        ids: list[int] = apply_template(
            tokenizer, prompt, template_kwargs, tokenize=True, add_generation_prompt=True, return_dict=False
        )
    except TemplateError as error:
        raise UserError(
            f"prompt of row {row}: the chat template of {tokenizer.name_or_path} refuses it ({error}); use the roles "
            "the template knows"
        ) from error
    if not ids:
        raise UserError(f"prompt of row {row}: 0 tokens under the chat template; give it at least one message")
    if len(ids) + max_new_tokens > window:
        raise UserError(
            f"prompt of row {row}: {len(ids)} tokens + max_new_tokens {max_new_tokens} exceed the context window of "
            f"{window}; shorten the prompt, lower max_new_tokens or give the model a longer window "
            f"({setting}.context)"
        )
    return ids
