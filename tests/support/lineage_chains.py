"""A chain of rounds in a store as the runner writes it: a model that a stage made is a parent and fills its role."""

from dataclasses import dataclass

from datasets_factory import add_dataset, add_model, model_of, plain_frame, scores_frame, weights_frame

from builders.store.manifest import Model
from builders.store.revision import Revision
from builders.store.store import Store
from training.grace_kto.pipeline import GRACE_KTO

DOMAIN = Model(id="world:domain", revision="ab" * 32)


@dataclass
class Chain:
    """The seeds, the fine-tuned model, and by stage and round what came of them."""

    seed: Revision
    sft: Revision
    made: dict[tuple[str, int], Revision]


def chain_of(store: Store, rounds: int) -> Chain:
    """Add a chain of rounds to a store: every round's queries are made from those of all earlier rounds too."""
    seed = add_dataset(store, "seed", plain_frame(GRACE_KTO.stage("seed").columns), round_=0)
    sft = add_model(store, "local/demo-sft", round_=0, parents=[seed], models={"base": DOMAIN})
    made: dict[tuple[str, int], Revision] = {}
    policy = sft
    for round_ in range(1, rounds + 1):
        models = {"policy": model_of(policy)}
        queries = plain_frame(GRACE_KTO.stage("generate").columns)
        earlier = [made["generate", before] for before in range(1, round_)]
        made["generate", round_] = add_dataset(
            store, "generate", queries, round_=round_, parents=[seed, *earlier, policy], models=models
        )
        groups = scores_frame().select(c.name for c in GRACE_KTO.stage("sample").columns)
        parents = [made["generate", round_], policy]
        made["sample", round_] = add_dataset(store, "sample", groups, round_=round_, parents=parents, models=models)
        scoring = {"tokenizer": model_of(sft), "domain": DOMAIN}
        parents = [made["sample", round_], sft]
        made["score", round_] = add_dataset(
            store, "score", scores_frame(), round_=round_, parents=parents, models=scoring
        )
        weights = weights_frame(scores_frame())
        made["calibrate", round_] = add_dataset(
            store, "calibrate", weights, round_=round_, parents=[made["score", round_]]
        )
        policy = made["policy", round_] = add_model(
            store,
            "local/demo-policy",
            round_=round_,
            parents=[made["calibrate", round_], sft, *([policy] if round_ > 1 else [])],
            models={"base": model_of(sft), "policy": model_of(policy)},
        )
    return Chain(seed, sft, made)
