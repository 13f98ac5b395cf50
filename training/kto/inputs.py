"""Turn the many forms in which TRL's users hold their inputs into one: model, tokenizer, window, dataset.

This module imports torch and TRL, so import it inside functions.
"""

from typing import Any

from datasets import Dataset  # noqa: TID253
from peft import PeftModel  # noqa: TID253
from transformers import AutoConfig, AutoTokenizer  # noqa: TID253
from trl.data_utils import extract_prompt, unpair_preference_dataset  # noqa: TID253

from scorers.errors import UserError
from training.kto.config import GraceKTOConfig


def require_arguments(model: Any, args: GraceKTOConfig, train_dataset: Any) -> None:
    """Check the trainer's arguments before TRL sees them.

    Raises:
        UserError: `args` is not a `GraceKTOConfig`, there are two adapters to start from, or no training rows.
    """
    if not isinstance(args, GraceKTOConfig):
        raise UserError(f"args is a {type(args).__name__}; give a training.kto.config.GraceKTOConfig, which extends it")
    if isinstance(model, PeftModel) and args.initial_adapter is not None:
        raise UserError("initial_adapter is for a model without an adapter and a peft_config; the model given has one")
    # TRL looks at the first row at once and would end with a bare StopIteration.
    if isinstance(train_dataset, Dataset) and not len(train_dataset):
        raise UserError("the train dataset has 0 rows; give at least 1")


def unpaired(dataset: Any, name: str) -> Dataset:
    """Split preference pairs (chosen, rejected) into one row per completion, as TRL does; pass other datasets through.

    Args:
        dataset: a `datasets.Dataset`, with or without a prompt column.
        name: what messages call the dataset, such as train or eval.

    Raises:
        UserError: the dataset is a stream.
    """
    if not isinstance(dataset, Dataset):
        raise UserError(
            f"the {name} dataset is an {type(dataset).__name__}; rows are ordered and paired over the whole dataset, "
            "so give a datasets.Dataset"
        )
    if not {"chosen", "rejected"} <= set(dataset.column_names):
        return dataset
    # Pairs without a prompt column share a beginning: that is the prompt.
    return unpair_preference_dataset(dataset if "prompt" in dataset.column_names else dataset.map(extract_prompt))


def tokenizer_of(model: Any, args: GraceKTOConfig) -> Any:
    """Load the tokenizer beside a model: from its folder or repository, or from where a model object was loaded.

    Raises:
        UserError: the model object was not loaded from anywhere.
    """
    if isinstance(model, str):
        return AutoTokenizer.from_pretrained(model, **_source_options(args))
    name = getattr(model.config, "_name_or_path", "")
    if not name:
        raise UserError("the model object was not loaded from a folder or an id; give processing_class, its tokenizer")
    return AutoTokenizer.from_pretrained(name, trust_remote_code=args.trust_remote_code)


def window_of(model: Any, args: GraceKTOConfig) -> int | None:
    """The longest sequence that the model's configuration allows, in tokens; None where it states no limit."""
    config = AutoConfig.from_pretrained(model, **_source_options(args)) if isinstance(model, str) else model.config
    window: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return window


def _source_options(args: GraceKTOConfig) -> dict[str, Any]:
    """Loading options that a model's name needs; the same for its weights, configuration and tokenizer."""
    options = args.model_init_kwargs or {}
    trust = options.get("trust_remote_code", args.trust_remote_code)
    return {"revision": options.get("revision"), "trust_remote_code": trust}
