"""The causal language models of the generated world, trained from scratch.

They are the base model, which SFT starts from, and the two models of the metric P (GRACE-KTO, eq. 3): the general
language model and the domain language model. Each is a Qwen2 model of 0.1 to 0.3 M parameters with the world's
tokenizer, whose words include those of `prompt`. Each training writes a model folder and returns the number of
parameters, the steps and the last loss in nats per token.
"""

from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from training.world.texts import Conversation, Prompt, World

if TYPE_CHECKING:
    from transformers import Qwen2ForCausalLM

WINDOW = 1024  # longest text in tokens
BASE, GENERAL = (96, 192), (64, 96)  # width of a token's state, and of the MLP

Metrics = dict[str, float]


def train_base(folder: Path, seed: int, prompt: Prompt, steps: int = 400) -> Metrics:
    """Train the base model on two skills: to copy a query's headings, and to write new queries.

    Args:
        folder: folder to write the model into.
        seed: seed of the texts, the weights and the batches.
        prompt: the pipeline's wish for new queries.
        steps: optimizer steps.

    Returns:
        parameters, steps and loss (mean over the last tenth of the steps, in nats per token).
    """
    from training.world.tokenizer import save_policy_tokenizer

    save_policy_tokenizer(folder, prompt)
    model = _new_model(folder, seed, BASE)
    world = World(seed)
    # Enough rows that few are seen twice, up to a limit.
    rows = _conversation_rows(folder, world.copying_conversations(min(9_000, 32 * steps)), prompt_weight=0.0)
    # The queries shown as examples count a little in the loss: from them the model learns that the terms of one query
    # share a topic.
    rows += _conversation_rows(folder, world.query_conversations(min(900, 2 * steps), prompt), prompt_weight=0.3)
    return _train_and_save(model, folder, rows, steps, 4e-3, seed, batch_size=32)


def train_new(folder: Path, conversations: list[Conversation], steps: int, seed: int) -> Metrics:
    """Train a model of the base model's shape from scratch on conversations.

    Args:
        folder: holds the tokenizer; the model is written beside it.
        conversations: what it learns, answers alone.
        steps: optimizer steps.
        seed: seed of the weights and the batches.

    Returns:
        parameters, steps and loss (mean over the last tenth of the steps, in nats per token).
    """
    model = _new_model(folder, seed, BASE)
    rows = _conversation_rows(folder, conversations, prompt_weight=0.0)
    return _train_and_save(model, folder, rows, steps, 4e-3, seed, batch_size=32)


def train_classifier(
    folder: Path, rows: list[tuple[str, int]], labels: dict[int, str], steps: int, seed: int
) -> Metrics:
    """Train a sequence classifier of the general language model's shape from scratch.

    Args:
        folder: holds the tokenizer; the model is written beside it.
        rows: texts and the number of each one's label.
        labels: names of the labels by number.
        steps: optimizer steps.
        seed: seed of the weights and the batches.

    Returns:
        parameters, steps and loss (mean over the last tenth of the steps, in nats).
    """
    import torch

    def loss(score: Any, batch: list[tuple[str, int]]) -> Any:
        logits = score([text for text, _ in batch])
        return torch.nn.functional.cross_entropy(logits, torch.tensor([label for _, label in batch]))

    names = {"id2label": labels, "label2id": {name: number for number, name in labels.items()}}
    return _train_scorer(folder, rows, loss, GENERAL, 2, names, steps, seed, 2e-3)


def train_ranker(folder: Path, pairs: list[tuple[str, str]], steps: int, seed: int) -> Metrics:
    """Train a sequence classifier with one output from scratch, on pairs of texts of which the first is the better one.

    It has a layer more than the other models: two find what two texts have in common, and one adds up.

    Args:
        folder: holds the tokenizer; the model is written beside it.
        pairs: the better text and the worse one.
        steps: optimizer steps.
        seed: seed of the weights and the batches.

    Returns:
        parameters, steps and loss (mean over the last tenth of the steps, in nats).
    """
    import torch

    def loss(score: Any, batch: list[tuple[str, str]]) -> Any:
        better, worse = score([text for side in zip(*batch, strict=True) for text in side])[:, 0].chunk(2)
        return -torch.nn.functional.logsigmoid(better - worse).mean()

    return _train_scorer(folder, pairs, loss, BASE, 3, {"num_labels": 1}, steps, seed, 2e-3)


def _train_scorer(
    folder: Path,
    rows: list[Any],
    loss_of: Any,
    sizes: tuple[int, int],
    layers: int,
    options: dict[str, Any],
    steps: int,
    seed: int,
    learning_rate: float,
) -> Metrics:
    """Train a Qwen2 sequence classifier from scratch.

    Args:
        folder: holds the tokenizer; the model is written beside it.
        rows: what batches are drawn from.
        loss_of: the loss, from a function that scores texts and a batch.
        sizes: of state and MLP.
        layers: number of layers.
        options: further settings of the model's configuration.
        steps: optimizer steps.
        seed: seed of the weights and the batches.
        learning_rate: at its peak.
    """
    import torch
    from transformers import AutoTokenizer, Qwen2ForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right")
    config = causal_config(tokenizer, *sizes)
    config.num_hidden_layers, config.layer_types = layers, ["full_attention"] * layers
    for name, value in options.items():
        setattr(config, name, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForSequenceClassification(config)

    def score(texts: list[str]) -> Any:
        ended = [text + tokenizer.eos_token for text in texts]
        return model(**tokenizer(ended, return_tensors="pt", padding=True)).logits

    rng = Random(f"{seed}/batches")
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / 50) * max(0.02, 1 - step / steps)
        loss = loss_of(score, rng.sample(rows, 32))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    model.save_pretrained(folder)
    tail = losses[-max(1, steps // 10) :]
    return {"parameters": model.num_parameters(), "steps": steps, "loss": sum(tail) / len(tail)}


def make_blank(folder: Path, seed: int, prompt: Prompt) -> Metrics:
    """Make a model of the base model's shape with random weights, for a training from scratch.

    Args:
        folder: folder to write the model into.
        seed: seed of the weights.
        prompt: the pipeline's wish for new queries, for the tokenizer.

    Returns:
        parameters.
    """
    from training.world.tokenizer import save_policy_tokenizer

    save_policy_tokenizer(folder, prompt)
    model = _new_model(folder, seed, BASE)
    model.save_pretrained(folder)
    return {"parameters": model.num_parameters()}


def train_general(folder: Path, seed: int, prompt: Prompt, steps: int = 350) -> Metrics:
    """Train the general language model from scratch, on documents mostly in the general register.

    Args:
        folder: folder to write the model into.
        seed: seed of the texts, the weights and the batches.
        prompt: the pipeline's wish for new queries, for the tokenizer.
        steps: optimizer steps.

    Returns:
        parameters, steps and loss (mean over the last tenth of the steps, in nats per token).
    """
    from training.world.tokenizer import save_policy_tokenizer

    save_policy_tokenizer(folder, prompt)
    model = _new_model(folder, seed, GENERAL)
    return _train_and_save(
        model, folder, _text_rows(folder, World(seed).general_documents(min(6_000, 24 * steps))), steps, 4e-3, seed
    )


def train_domain(folder: Path, general: Path, seed: int, prompt: Prompt, steps: int = 200) -> Metrics:
    """Train the domain language model: the general one, trained further on documents mostly in the domain register.

    Args:
        folder: folder to write the model into.
        general: folder of the general language model.
        seed: seed of the texts and the batches.
        prompt: the pipeline's wish for new queries, for the tokenizer.
        steps: optimizer steps.

    Returns:
        parameters, steps and loss (mean over the last tenth of the steps, in nats per token).
    """
    from transformers import Qwen2ForCausalLM

    from training.world.tokenizer import save_policy_tokenizer

    save_policy_tokenizer(folder, prompt)
    model = Qwen2ForCausalLM.from_pretrained(general)
    return _train_and_save(
        model, folder, _text_rows(folder, World(seed).domain_documents(min(4_000, 24 * steps))), steps, 2e-3, seed
    )


def causal_config(tokenizer: Any, hidden: int, intermediate: int) -> Any:
    """The configuration of a two-layer Qwen2 for a tokenizer."""
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=2,
        # Heads 32 wide, the narrowest that vLLM runs on a CPU.
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 32,
        max_position_embeddings=WINDOW,
        tie_word_embeddings=True,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _new_model(folder: Path, seed: int, sizes: tuple[int, int]) -> "Qwen2ForCausalLM":
    """A two-layer Qwen2 with random weights for the tokenizer in `folder`; `sizes` are those of state and MLP."""
    import torch
    from transformers import AutoTokenizer, Qwen2ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(folder)
    # The seed decides the weights; the generator of the rest of the program is left as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(causal_config(tokenizer, *sizes))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def _train_and_save(
    model: Any, folder: Path, rows: list[Any], steps: int, learning_rate: float, seed: int, batch_size: int = 24
) -> Metrics:
    from training.world.optimise import train

    loss = train(model, rows, steps=steps, batch_size=batch_size, learning_rate=learning_rate, seed=seed)
    model.save_pretrained(folder)
    return {"parameters": model.num_parameters(), "steps": steps, "loss": loss}


def _conversation_rows(
    folder: Path, conversations: list[Conversation], prompt_weight: float
) -> list[tuple[list[int], list[float]]]:
    """Conversations as rows of the training loop: token ids, and a loss weight per token (1 in the answer)."""
    from transformers import AutoTokenizer

    from training.sft.finetune import tokenize

    rows, _ = tokenize(AutoTokenizer.from_pretrained(folder), conversations, WINDOW)
    return [
        (row["input_ids"], [prompt_weight if i < row["prompt_length"] else 1.0 for i in range(row["length"])])
        for row in rows
    ]


def _text_rows(folder: Path, texts: list[str]) -> list[tuple[list[int], list[float]]]:
    """Documents as rows without an end token, because perplexity is measured on the document alone."""
    from transformers import AutoTokenizer

    return [(ids, [1.0] * len(ids)) for ids in AutoTokenizer.from_pretrained(folder)(texts)["input_ids"]]
