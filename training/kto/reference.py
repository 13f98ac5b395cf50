"""Reference log-probabilities, computed once per dataset with the model that the settings name as the reference.

This module imports torch and TRL, so import it inside functions.
"""

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch  # noqa: TID253
from datasets import Dataset, concatenate_datasets  # noqa: TID253
from peft import PeftModel, set_peft_model_state_dict  # noqa: TID253
from safetensors.torch import load_file
from torch.utils.data import DataLoader  # noqa: TID253
from trl import KTOTrainer  # noqa: TID253
from trl.models import prepare_deepspeed  # noqa: TID253
from trl.models.utils import disable_gradient_checkpointing  # noqa: TID253
from trl.trainer.utils import add_fused_lm_head, create_model_from_path, use_adapter  # noqa: TID253

from builders.store.files import ADAPTER_WEIGHTS
from scorers.errors import UserError
from training.kto.data import dataset_of, values_of
from training.kto.forward import evaluation_mode, switch_off_dropout, token_logps
from training.kto.reference_cache import read_reference, write_reference

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from training.kto.config import GraceKTOConfig, WeightedCollator

CHECKED = 64
"""Rows whose sampler's log-probability is compared with a forward pass."""
AGREES = 0.01
"""How far β times a log-probability may be from that of a forward pass: it moves a row's loss by a 400th at most."""

log = logging.getLogger(__name__)


class ReferenceTrainer(KTOTrainer):  # type: ignore[misc]
    """TRL's `KTOTrainer` with another choice of the reference model: the first of these that is given.

    1. `ref_model`: a model object, as in TRL.
    2. `args.reference_model`: a folder or an id, loaded for the computation alone.
    3. With an adapter, the policy itself: its adapter switched off (`args.reference` is initial), or as it was when
       training began (round). TRL always takes the first for a `peft_config` and the second for a `PeftModel`.
    4. Without an adapter, the policy itself before its first step.
    """

    args: "GraceKTOConfig"
    train_dataset: Any
    eval_dataset: Any
    _collator: "WeightedCollator"  # knows the tokens and the name of each row; the column `row` points into it
    _quantization_config: Any
    _precompute_engine: Any  # TRL's: the policy under DeepSpeed's inference engine, once it is needed

    def __init__(self, model: Any, ref_model: Any = None, **arguments: Any) -> None:
        self._constructed = False
        # TRL rounds the trainable parameters of a 4-bit model to bfloat16, in which a small update is lost.
        adapter = model.named_parameters() if isinstance(model, PeftModel) else ()
        given = {name: parameter.data for name, parameter in adapter if parameter.requires_grad}
        super().__init__(model=model, ref_model=ref_model, **arguments)
        self._constructed = True
        self._float32_adapter(given)
        # An adapter has a dropout of its own (`lora_dropout`), which asks for none in the model under it.
        if self.args.disable_dropout or isinstance(self.model, PeftModel):
            switch_off_dropout(self.model)
        if self.args.initial_adapter is not None:
            self._load_adapter(self.args.initial_adapter)
        # From here on the policy has its starting weights.
        self._add_reference()
        if self.is_fsdp_enabled and ref_model is None:
            self.ref_model = None

    @property
    def precompute_ref_logps(self) -> bool:
        """Whether the reference is computed in advance, which TRL asks: always, once its constructor has ended.

        Its constructor would hash every weight of the policy, for a cache that is not used here, and compute the
        reference before the adapter is loaded.
        """
        return self._constructed

    @precompute_ref_logps.setter
    def precompute_ref_logps(self, value: bool) -> None:
        """Ignore what TRL's constructor says: the settings allow nothing else."""

    def _float32_adapter(self, given: Mapping[str, torch.Tensor]) -> None:
        """Make the trainable parameters of an adapter on a 4-bit or 8-bit model float32.

        At a learning rate of 5e-6 an update is below the resolution of bfloat16 for nearly every entry of `lora_A`.

        Args:
            given: the parameters as they were before TRL rounded them, by name; a parameter that TRL made is absent.
        """
        quantized = getattr(self.model, "is_loaded_in_4bit", False) or getattr(self.model, "is_loaded_in_8bit", False)
        if not (quantized and isinstance(self.model, PeftModel)):
            return
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                parameter.data = given.get(name, parameter.data).to(parameter.device, torch.float32)

    def _add_reference(self) -> None:
        """Add the reference's columns to the datasets that the trainer was made with."""
        args = self.args
        train_size = args.precompute_ref_batch_size or args.per_device_train_batch_size
        eval_size = args.precompute_ref_batch_size or args.per_device_eval_batch_size
        self.train_dataset = self._precompute_ref_logps(self.train_dataset, "train", train_size)
        if isinstance(self.eval_dataset, dict):
            self.eval_dataset = {n: self._precompute_ref_logps(d, n, eval_size) for n, d in self.eval_dataset.items()}
        elif self.eval_dataset is not None:
            self.eval_dataset = self._precompute_ref_logps(self.eval_dataset, "eval", eval_size)

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """Add ref_logps and, with kl=mismatched, ref_KL_logps to a dataset; TRL's `evaluate` calls this too."""
        if "ref_logps" in dataset.column_names:  # one of the trainer's own datasets, given to `evaluate`
            return dataset
        # There is one cache file, for the training rows; those of evaluation sets are computed again.
        cache = None
        if dataset is self.train_dataset and self.args.reference_cache is not None:
            cache = Path(self.args.reference_cache)
        rows = values_of(dataset, "row").to_numpy()
        columns = read_reference(cache, self.args.reference_key, rows)
        if columns is None:
            columns = self._compute_reference(dataset, batch_size)
            for column, values in columns.items():
                self._require_finite(torch.from_numpy(values), rows, f"reference {column}")
            if self.accelerator.is_main_process:
                write_reference(cache, self.args.reference_key, rows, columns)
        else:
            # The number that the loader draws where the reference is computed: dropout must draw the same afterwards.
            torch.empty((), dtype=torch.int64).random_()
        return concatenate_datasets([dataset, dataset_of(columns)], axis=1)

    def _compute_reference(self, dataset: Dataset, batch_size: int) -> "dict[str, NDArray[np.float32]]":
        """Compute the reference over a dataset: by its forward passes, or from what the sampler wrote down.

        The sampler's log-probability is that of the reference where the policy that sampled is the reference, in the
        same precision, and the text is tokenized as it was sampled. So it counts for rows of as many tokens, once a
        forward pass over `CHECKED` of them agrees; all others get a forward pass.

        Returns:
            Log-probabilities of each row's completion, in nats: ref_logps and, with kl=mismatched, ref_KL_logps of the
            borrowed completion, each (N,) float32 in the order of the rows.
        """
        own, borrowed = ("",), ("KL_",) if self.args.kl == "mismatched" else ()
        if not self.args.sampler_reference:
            return self._forward_reference(dataset, batch_size, (*own, *borrowed))
        values = self._sampler_reference(dataset, batch_size)
        missing = np.flatnonzero(np.isnan(values))
        if len(missing):
            values[missing] = self._forward_reference(dataset.select(missing), batch_size, own)["ref_logps"]
        columns = {"ref_logps": values}
        return columns | (self._forward_reference(dataset, batch_size, borrowed) if borrowed else {})

    def _sampler_reference(self, dataset: Dataset, batch_size: int) -> "NDArray[np.float32]":
        """The sampler's log-probability of each row's completion in nats, (N,); NaN where a forward pass is needed."""
        rows = values_of(dataset, "row").to_numpy()
        given = values_of(self._collator.tokens_of(rows), "logprob").fill_null(math.nan)
        values = given.to_numpy().astype(np.float32)
        known = np.flatnonzero(~np.isnan(values))
        if not len(known):
            return values
        checked = known[np.linspace(0, len(known) - 1, min(CHECKED, len(known))).astype(np.int64)]
        again = self._forward_reference(dataset.select(checked), batch_size, ("",))["ref_logps"]
        off = float(np.abs(again - values[checked]).max())
        agrees = self.args.beta * off <= AGREES
        if self.accelerator.is_main_process:
            said = f"reference: the sampler's log-probability is within {off:.2g} nats of a forward pass"
            if agrees:
                log.info("%s, and taken for %d of %d rows", said, len(known), len(rows))
            else:
                log.warning(
                    "%s, too much for beta %g, so all %d rows get a forward pass; another precision, policy or "
                    "tokenization than in sampling makes such a difference", said, self.args.beta, len(rows)
                )  # fmt: skip
        return values if agrees else np.full_like(values, math.nan)

    def _forward_reference(
        self, dataset: Dataset, batch_size: int, prefixes: Sequence[str]
    ) -> "dict[str, NDArray[np.float32]]":
        """Run the reference over a dataset: over the rows' own completions (prefix ""), the borrowed ones, or both.

        Returns:
            ref_logps, ref_KL_logps, as `_compute_reference` has them.
        """
        loader = self.accelerator.prepare(
            DataLoader(dataset, batch_size=batch_size, collate_fn=self.data_collator, shuffle=False)
        )
        # By prefix of the batch's tensors: own completions and borrowed ones. One array each, since a million tensors
        # of a batch would take a hundred times its memory; NaN, so that a row left out would be an error.
        columns = {f"ref_{prefix}logps": np.full(len(dataset), np.nan, np.float32) for prefix in prefixes}
        done = 0
        with self._reference() as model, torch.no_grad(), self.accelerator.autocast():
            for batch in loader:
                for prefix in prefixes:
                    logps = token_logps(model, batch, prefix, mixed=bool(self.args.bf16)).sum(-1)  # (B,)
                    # Without the rows that fill up the last batch of several processes.
                    values = self.accelerator.gather_for_metrics(logps).float().cpu().numpy()
                    columns[f"ref_{prefix}logps"][done : done + len(values)] = values
                done += len(values)
        return columns

    @contextlib.contextmanager
    def _reference(self) -> Iterator[Any]:
        """The reference model in evaluation mode; a model loaded for this purpose is freed on leaving."""
        with contextlib.ExitStack() as stack:
            if self.ref_model is not None:
                model = self.ref_model
            elif self.args.reference_model is not None:
                model = self._load_reference(self.args.reference_model)
            else:
                model = self._policy_as_reference(stack)
            evaluation_mode(model)
            yield model

    def _load_reference(self, path: str) -> Any:
        options = dict(self.args.model_init_kwargs or {})
        options.setdefault("dtype", self.model.dtype)  # a policy given as an object was not loaded with these options
        options.setdefault("attn_implementation", self.model.config._attn_implementation)
        if self._quantization_config is not None:
            options["quantization_config"] = self._quantization_config
        model = create_model_from_path(path, **options)
        add_fused_lm_head(model)
        prepared = self.accelerator.prepare_model(model, evaluation_mode=True)
        # accelerate lists the models it prepared; the list would hold this one in memory for the whole training.
        self.accelerator._models.pop()
        return prepared

    def _policy_as_reference(self, stack: contextlib.ExitStack) -> Any:
        # Without gradients there is nothing to recompute; checkpointing would only warn.
        stack.enter_context(disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs))
        if isinstance(self.model, PeftModel) and self.args.reference == "initial":
            stack.enter_context(use_adapter(self.model, None))
        elif isinstance(self.model, PeftModel) and "ref" in self.model.peft_config:
            stack.enter_context(use_adapter(self.model, "ref"))  # TRL's copy of the adapter of a `PeftModel`
        # Neither an adapter to switch off nor a copy of it: the policy is its own reference, until its first step.
        elif self.state.global_step > 0:
            raise UserError(
                "reference=round is the adapter training began with, which this run no longer has after step "
                f"{self.state.global_step}; give the dataset as eval_dataset when the trainer is made"
            )
        if not self.is_deepspeed_enabled:
            return self.model
        # Under DeepSpeed the parameters reach the device with an engine only; one engine serves all datasets.
        if self._precompute_engine is None:
            self._precompute_engine = prepare_deepspeed(self.model, self.accelerator)
        return self._precompute_engine

    def _require_finite(self, values: torch.Tensor, rows: "NDArray[np.integer] | torch.Tensor", what: str) -> None:
        """Check a (B,) tensor of values against their (B,) row numbers.

        Raises:
            UserError: a value is NaN or infinite; the message names the first such row.
        """
        finite = torch.isfinite(values)
        if not bool(finite.all()):
            at = int((~finite).nonzero()[0])
            raise UserError(
                f"{what} of {self._collator.name_of(int(rows[at]))} is {values[at].item()} at step "
                f"{self.state.global_step}; nothing was written for this step: lower learning_rate or check the model"
            )

    def _load_adapter(self, folder: str) -> None:
        """Copy the weights of an adapter's folder into the model's adapter, whose parameters stay float32.

        Raises:
            UserError: the folder has no adapter weights, or they do not fit the model.
        """
        path = Path(folder) / ADAPTER_WEIGHTS
        if not path.is_file():
            raise UserError(f"{folder} has no {ADAPTER_WEIGHTS}; give a folder that LoRA training wrote")
        loaded = set_peft_model_state_dict(self.model, load_file(path))
        if loaded.unexpected_keys:
            raise UserError(f"{path} does not fit this model: unexpected {loaded.unexpected_keys[0]}")
