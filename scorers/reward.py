"""Rewards of texts by a sequence classifier with one output, or by one for each kind of text (RationAlign, §3.2.1).

model/config.json, model.safetensors …           one model for all kinds
model/gec/config.json, model/fluency/ …          a model for each kind
model/gec/adapter_config.json, …                 an adapter for each kind, on one base model
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from scorers.batching import by_length
from scorers.errors import UserError
from scorers.gpu_memory import BatchSize
from scorers.model_loading import quiet_loading, require_vocabulary, window_in

ADAPTER = "adapter_config.json"
CONFIG = "config.json"


def ended(text: str, end: str) -> str:
    """Return a text with the token that ends it, as TRL's `RewardTrainer` reads it."""
    return text if text.endswith(end) else text + end


class RewardModels:
    """Loads a reward model and scores texts in batches; of several kinds the model of one at a time is in memory.

    Args:
        folder: of the model, or of the base model of `adapter`.
        adapter: folder of a LoRA adapter, or of one for each kind; None for none.
        device: such as cpu or cuda.
        dtype: float32, bfloat16 or float16.
        batch_size: texts in one pass.
        max_length: longest text in tokens, of which the end is kept; None for the model's window.
        name: what messages call it; None: the folder's name.

    Attributes:
        truncated: texts that were cut so far.

    Raises:
        UserError: a model that cannot be loaded, or has another number of outputs.
    """

    def __init__(
        self,
        folder: Path,
        adapter: Path | None,
        *,
        device: str,
        dtype: str,
        batch_size: int,
        max_length: int | None = None,
        name: str | None = None,
    ) -> None:
        self.folder, self.adapter = folder, adapter
        self.name = name or (adapter or folder).name
        self.device, self.dtype, self.max_length = device, dtype, max_length
        self.truncated = 0
        self._batch = BatchSize(batch_size, "prefer.batch_size")
        self._kind: str | None = None
        self._model: Any = None
        self._tokenizer: Any = None

    def score(self, texts: Sequence[str], kinds: Sequence[str]) -> list[float]:
        """Return the reward of each text, any real number; greater is better.

        Args:
            texts: what the model reads.
            kinds: the kind of each, such as its task.

        Raises:
            UserError: there is no model for a kind.
            ValueError: texts and kinds differ in number.
        """
        if len(texts) != len(kinds):
            raise ValueError(f"{len(texts)} texts and {len(kinds)} kinds; one kind per text is needed")
        rewards = [0.0] * len(texts)
        for kind in dict.fromkeys(kinds):
            places = [place for place, one in enumerate(kinds) if one == kind]
            self._load(kind)
            for place, reward in zip(places, self._scored([texts[place] for place in places]), strict=True):
                rewards[place] = reward
        return rewards

    def has(self, kind: str) -> bool:
        """Whether there is a model for a kind."""
        top = self.adapter or self.folder
        name = ADAPTER if self.adapter is not None else CONFIG
        return (top / name).is_file() or (top / kind / name).is_file()

    def require(self, kinds: Iterable[str]) -> None:
        """Check that there is a model for some kinds.

        Raises:
            UserError: there is none for one of them.
        """
        for kind in kinds:
            self._folders(kind)

    def _load(self, kind: str) -> None:
        """Load the model of a kind, unless it is there."""
        model, adapter = self._folders(kind)
        key = str((model, adapter))
        if self._kind == key:
            return
        from safetensors import SafetensorError
        from transformers import AutoTokenizer

        self._kind = self._model = None
        try:
            with quiet_loading(warnings=True):
                self._tokenizer = AutoTokenizer.from_pretrained(self.adapter or self.folder, trust_remote_code=False)
                loaded = self._with_head(model, adapter)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            said = str(error).strip().splitlines() or ["damaged"]
            name = model if adapter is None else adapter
            raise UserError(f"reward model {name}: cannot be loaded ({said[0]}); train it again") from None
        require_vocabulary(str(model), self._tokenizer, loaded.config)
        # The place of the score is the last token that is no padding.
        padding = self._tokenizer.pad_token_id
        self._pad = padding if padding is not None else self._tokenizer.eos_token_id
        loaded.config.get_text_config().pad_token_id = self._pad
        loaded.config.get_text_config().use_cache = False
        self._model = loaded.to(self.device).eval()
        self._kind = key

    def _with_head(self, model: Path, adapter: Path | None) -> Any:
        """Load a model with its head for one score, which an adapter brings along.

        Raises:
            UserError: it has no head for a score, or one for several.
        """
        import torch
        from transformers import AutoConfig, AutoModelForSequenceClassification

        dtype = getattr(torch, self.dtype)
        if adapter is not None:
            from peft import PeftModel

            base = AutoModelForSequenceClassification.from_pretrained(
                model, trust_remote_code=False, dtype=dtype, num_labels=1
            )
            return PeftModel.from_pretrained(base, adapter)
        outputs = AutoConfig.from_pretrained(model, trust_remote_code=False).num_labels
        loaded, report = AutoModelForSequenceClassification.from_pretrained(
            model, trust_remote_code=False, dtype=dtype, output_loading_info=True
        )
        if missing := sorted(report["missing_keys"]):
            raise UserError(
                f"reward model {model}: no weight {missing[0]}; give a trained one, as `train --stage reward`"
            )
        if outputs != 1:
            raise UserError(f"reward model {model}: {outputs} outputs; a reward model has one")
        return loaded

    def _folders(self, kind: str) -> tuple[Path, Path | None]:
        """Return the folders of a kind's model and adapter."""
        top = self.adapter or self.folder
        name = ADAPTER if self.adapter is not None else CONFIG
        if (top / name).is_file():
            return self.folder, self.adapter
        if not (top / kind / name).is_file():
            kinds = sorted(path.parent.name for path in top.glob(f"*/{name}"))
            raise UserError(
                f"reward model {self.name}: none for task {kind}; it has {', '.join(kinds) or 'none'}: train it on "
                "contests of that task too, or one for all tasks (reward.per_task: false)"
            )
        return (top / kind, None) if self.adapter is None else (self.folder, top / kind)

    def _scored(self, texts: Sequence[str]) -> list[float]:
        end = self._tokenizer.eos_token or ""
        ids = self._tokenizer([ended(text, end) for text in texts])["input_ids"]
        window = window_in(self._model.config) or max(map(len, ids))
        limit = min(self.max_length or window, window)
        self.truncated += sum(len(row) > limit for row in ids)
        rows = [row[-limit:] for row in ids]
        return self._batch.fitting(lambda size: self._in_batches(rows, size))

    def _in_batches(self, rows: Sequence[list[int]], size: int) -> list[float]:
        import torch

        found = [0.0] * len(rows)
        with torch.inference_mode():
            for places in self._batches(rows, size):
                width = max(len(rows[place]) for place in places)
                ids = torch.full((len(places), width), self._pad)
                mask = torch.zeros((len(places), width), dtype=torch.long)
                for number, place in enumerate(places):
                    ids[number, : len(rows[place])] = torch.tensor(rows[place])
                    mask[number, : len(rows[place])] = 1
                logits = self._model(input_ids=ids.to(self.device), attention_mask=mask.to(self.device)).logits
                for place, reward in zip(places, logits[:, 0].float().tolist(), strict=True):
                    found[place] = reward
        return found

    @staticmethod
    def _batches(rows: Sequence[list[int]], size: int) -> Iterator[list[int]]:
        lengths = [len(row) for row in rows]
        return by_length(lengths, size * max(lengths, default=1), size)
