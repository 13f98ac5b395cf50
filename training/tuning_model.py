"""The model that SFT trains, as its method needs it, and the merge of a trained adapter into it.

This module imports torch and PEFT, so import it inside functions.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import torch  # noqa: TID253
from peft import LoraConfig, PeftModel  # noqa: TID253
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification  # noqa: TID253
from transformers.integrations.deepspeed import unset_hf_deepspeed_config  # noqa: TID253
from trl.trainer.reward_trainer import suppress_seqcls_warning  # noqa: TID253

from builders.settings.sft import TuningSettings
from training.adapters import new_adapter, nf4
from training.precision import precision_arguments

HEADS = ("score", "classifier")  # of sequence classifiers, as transformers names them


def load_model(
    base: Path | str, settings: TuningSettings, attention: str, arguments: Any, *, scores: bool = False
) -> Any:
    """Load the base model in the type that it is trained in; a new adapter is added by the trainer.

    Args:
        base: model folder, or a model id of the Hub.
        settings: the method.
        attention: transformers' name of the attention (`training.attention`).
        arguments: the trainer's arguments. They must exist before the model: with ZeRO-3 each process then reads its
            own part of the weights alone.
        scores: whether the model is to give one score for a text; a head that it lacks is drawn by the settings' seed.
    """
    # DeepSpeed keeps a float32 copy of what it trains. Without it weights that are trained themselves stay float32:
    # bfloat16 would round away updates as small as the learning rate.
    bf16 = precision_arguments(settings.precision)["bf16"]  # which the arguments leave to DeepSpeed for an adapter
    narrow = bf16 and (settings.method != "full" or arguments.deepspeed is not None)
    if arguments.deepspeed is not None:
        # On a GPU DeepSpeed knows its fellow processes by now; on a CPU transformers does not introduce them.
        import_module("deepspeed").init_distributed(dist_backend=None if torch.cuda.is_available() else "gloo")
    options: dict[str, Any] = {"dtype": torch.bfloat16 if narrow else torch.float32}
    if settings.method == "qlora":
        options["quantization_config"] = nf4(options["dtype"], HEADS if scores else None)
    if not scores:
        return AutoModelForCausalLM.from_pretrained(
            base, trust_remote_code=False, attn_implementation=attention, **options
        )
    with torch.random.fork_rng(devices=[]), suppress_seqcls_warning():
        torch.manual_seed(settings.seed)
        return AutoModelForSequenceClassification.from_pretrained(
            base, trust_remote_code=False, attn_implementation=attention, num_labels=1, **options
        )


def adapter_config(settings: TuningSettings, task: str = "CAUSAL_LM") -> LoraConfig | None:
    """The shape of the adapter; None where every weight is trained."""
    if settings.method == "full":
        return None
    return new_adapter(settings.lora_rank, settings.lora_alpha, settings.lora_targets, settings.lora_dropout, task)


def widen_adapter(model: Any) -> None:
    """Turn trainable parameters into float32: TRL makes an adapter on 4-bit weights bfloat16.

    In bfloat16 an update below 1/256 of a parameter is rounded away, and most of LoRA's first factor would never move.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def merge(base: Path | str, adapter: Path, output: Path) -> None:
    """Add a trained adapter to the base model's weights and save the whole model, in the type of its checkpoint.

    The base is read anew on the CPU: a merge into 4-bit weights would keep their rounding.

    Args:
        base: the model that the adapter was trained on; a folder or an id.
        adapter: folder of the adapter.
        output: folder to write the model's files into.
    """
    unset_hf_deepspeed_config()  # else ZeRO-3 would shard the weights among processes that have ended
    model = AutoModelForCausalLM.from_pretrained(base, trust_remote_code=False, dtype="auto")
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(output)
