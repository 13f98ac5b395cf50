"""Reference log-probabilities: computed once for each dataset, from the model the settings name as the reference.

This module imports torch and TRL, so import it inside functions.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from training.kto.forward import evaluation_mode, token_logps
from training.kto.reference_cache import read_reference, write_reference

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from training.kto.config import GraceKTOConfig


class ReferenceTrainer(KTOTrainer):  # type: ignore[misc]
    """TRL's trainer with our choice of the reference model, the first of these that is given:

    - `ref_model`: a model object, as in TRL;
    - `args.reference_model`: loaded for the computation alone;
    - with an adapter: the model without it (`args.reference` initial) or as training begins with it (round). TRL takes
      the first for a `peft_config`, the second for a `PeftModel`;
    - the policy itself, before its first step.
    """

    args: "GraceKTOConfig"
    _row_names: list[str]  # response_id of each row of all datasets; the column `row` points into it
    _quantization_config: Any
    _precompute_engine: Any  # TRL's: the policy under DeepSpeed's inference engine, once it is needed

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """The dataset with ref_logps and, with kl=mismatched, ref_KL_logps; TRL calls this for each dataset."""
        if "ref_logps" in dataset.column_names:  # one of the trainer's own datasets, given to `evaluate`
            return dataset
        cache = None
        if dataset is self.train_dataset:  # TRL begins with it, and the policy is complete from then on
            if self.args.initial_adapter is not None:
                self._load_adapter(self.args.initial_adapter)
            cache = None if self.args.reference_cache is None else Path(self.args.reference_cache)
        response_ids = [self._row_names[row] for row in dataset["row"][:]]
        columns = read_reference(cache, self.args.reference_key, response_ids)
        if columns is None:
            columns = self._compute_reference(dataset, batch_size)
            for column, values in columns.items():
                self._require_finite(torch.from_numpy(values), dataset["row"][:], f"reference {column}")
            if self.accelerator.is_main_process:
                write_reference(cache, self.args.reference_key, response_ids, columns)
        return concatenate_datasets([dataset, Dataset.from_dict(columns)], axis=1)

    def _compute_reference(self, dataset: Dataset, batch_size: int) -> "dict[str, NDArray[np.float32]]":
        """Log-probabilities under the reference: ref_logps and, with kl=mismatched, ref_KL_logps, (N,) float32."""
        loader = self.accelerator.prepare(
            DataLoader(dataset, batch_size=batch_size, collate_fn=self.data_collator, shuffle=False)
        )
        parts: dict[str, list[torch.Tensor]] = {"": [], "KL_": []} if self.args.kl == "mismatched" else {"": []}
        with self._reference() as model, torch.no_grad(), self.accelerator.autocast():
            for batch in loader:
                for prefix, collected in parts.items():
                    logps = token_logps(model, batch, prefix).sum(-1)
                    collected.append(self.accelerator.gather_for_metrics(logps).float().cpu())
        return {f"ref_{prefix}logps": torch.cat(collected).numpy() for prefix, collected in parts.items()}

    @contextlib.contextmanager
    def _reference(self) -> Iterator[Any]:
        """The reference model in evaluation mode; one loaded for this is freed afterwards."""
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
        # accelerate keeps a list of the models it prepared, which would hold this one for the whole training.
        self.accelerator._models.pop()
        return prepared

    def _policy_as_reference(self, stack: contextlib.ExitStack) -> Any:
        stack.enter_context(disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs))
        if isinstance(self.model, PeftModel) and self.args.reference == "initial":
            stack.enter_context(use_adapter(self.model, None))
        elif isinstance(self.model, PeftModel) and "ref" in self.model.peft_config:
            stack.enter_context(use_adapter(self.model, "ref"))  # TRL's copy of the adapter of a `PeftModel`
        elif self.state.global_step > 0:
            raise UserError(
                "reference=round is the adapter training began with, which this run no longer has after step "
                f"{self.state.global_step}; give the dataset as eval_dataset when the trainer is made"
            )
        if not self.is_deepspeed_enabled:
            return self.model
        if self._precompute_engine is None:
            self._precompute_engine = prepare_deepspeed(self.model, self.accelerator)
        return self._precompute_engine

    def _require_finite(self, values: torch.Tensor, rows: Sequence[int] | torch.Tensor, what: str) -> None:
        """Raise a UserError that names the first of these rows whose value is NaN or infinite; both are (B,)."""
        finite = torch.isfinite(values)
        if not bool(finite.all()):
            at = int((~finite).nonzero()[0])
            raise UserError(
                f"{what} of {self._row_names[int(rows[at])]} is {values[at].item()} at step "
                f"{self.state.global_step}; nothing was written for this step: lower learning_rate or check the model"
            )

    def _load_adapter(self, folder: str) -> None:
        """Put the weights of an adapter folder into the model's adapter, in the precision they have."""
        path = Path(folder) / ADAPTER_WEIGHTS
        if not path.is_file():
            raise UserError(f"{folder} has no {ADAPTER_WEIGHTS}; give a folder that LoRA training wrote")
        loaded = set_peft_model_state_dict(self.model, load_file(path))
        if loaded.unexpected_keys:
            raise UserError(f"{path} does not fit this model: unexpected {loaded.unexpected_keys[0]}")
