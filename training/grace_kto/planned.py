"""What the costs of a GRACE-KTO run follow from: its models' shapes, its numbers of rows, and their lengths."""

from dataclasses import dataclass
from functools import cached_property

from builders.grace_kto import roles
from builders.grace_kto.settings import GraceKTOSettings
from builders.settings.engines import OpenAIEngineSettings
from builders.store.manifest import Manifest
from builders.store.store import Store
from training.costs.hardware import Machine, cpu
from training.costs.shapes import Found, Shape, find_config, shape_of
from training.costs.training import Amount

SYSTEM_TOKENS = 100  # of a system prompt, and of the wish for queries, without what is put into them
SEEDS = 1_000  # seed documents, until the store holds them


@dataclass(frozen=True)
class Run:
    """A configuration with what its costs follow from."""

    config: GraceKTOSettings
    machine: Machine
    store: Store

    def shape(self, role: str) -> Shape:
        """The shape of the model of a role; of one that a stage makes, that of the model it is made from."""
        return self._shapes[self.names[role]]

    @cached_property
    def names(self) -> dict[str, str]:
        """Models by role, `policy` as the model that it is made from."""
        models = self.config.models
        policy = models.base if models.policy == "sft" or self.serves("policy") else models.policy
        teacher = {"teacher": models.teacher} if models.teacher is not None and self.taught else {}
        scorers = {"general": models.general, "domain": models.domain, "relevance": models.relevance}
        return {"policy": policy, **teacher, **scorers, **self.raters}

    @property
    def raters(self) -> dict[str, str]:
        """Models that write criteria and rate by them, by role; none without `score.rubric`.

        Raises:
            UserError: one of them is not set.
        """
        if not self.config.score.rubric:
            return {}
        return {"criteria": roles.criteria(self.config, 1), "judge": roles.judge(self.config, 1)}

    @property
    def taught(self) -> bool:
        """Whether a teacher writes summaries and outlines, since the first policy is trained on them."""
        return self.config.models.teacher is not None and self.config.models.policy == "sft"

    def serves(self, role: str) -> bool:
        """Whether a server runs the model of a role, so that it takes nothing of this machine."""
        return isinstance(getattr(self.config.engines, role, None), OpenAIEngineSettings)

    @cached_property
    def _shapes(self) -> dict[str, Shape]:
        names = {name for role, name in self.names.items() if not self.serves(role)}
        return {name: shape_of(name, self._found(name)) for name in sorted(names)}

    def _found(self, name: str) -> Found:
        if name.startswith("world:"):
            from training.grace_kto.pipeline import WORLD_PROMPT
            from training.world.shapes import world_config

            return Found(world_config(name, WORLD_PROMPT), "the generated world")
        return find_config(name, self.store)

    @cached_property
    def shapes(self) -> list[Shape]:
        """The shapes of all models, each once."""
        return list(self._shapes.values())

    def manifest(self, suffix: str) -> Manifest | None:
        """The newest manifest that the store holds of a dataset of this run; None where it holds none."""
        found = self.store.find(f"{self.config.local_namespace}/{self.config.name}-{suffix}", "main")
        return None if found is None else found.manifest

    @cached_property
    def written(self) -> Amount:
        """Mean tokens of a response: those of the newest groups in the store, else an assumed share of the longest."""
        share, longest = self.config.plan.response_share, self.config.sample.max_new_tokens
        held = self.manifest("groups")
        if held is not None and "num_tokens" in held.metrics:
            return Amount(held.metrics["num_tokens"].mean, f"as measured in {held.repo}, round {held.round}")
        return Amount(share * longest, f"plan.response_share {share} × sample.max_new_tokens {longest:,}")

    @cached_property
    def seeds(self) -> Amount:
        """Seed documents: those in the store, else an assumed number."""
        held = self.manifest("seed")
        if held is not None:
            return Amount(held.rows.written, f"as in {held.repo}")
        if self.config.seed.source == "world:seeds":
            from training.world.stages import EXERCISES, SEED_DOCUMENTS

            return Amount(SEED_DOCUMENTS + EXERCISES, "the generated world's documents and exercises")
        return Amount(SEEDS, "assumed, until the store holds the seeds")

    @property
    def prompt(self) -> float:
        """Mean tokens of a prompt that asks for a response."""
        return self.config.plan.query_tokens + (SYSTEM_TOKENS if self.config.sample.system_prompt else 0)

    @property
    def rows(self) -> int:
        """Responses of a round, K·m."""
        return self.config.generate.queries * self.config.sample.responses

    @property
    def longest(self) -> int:
        """Tokens of the longest row of training: prompt and response, or the model's window."""
        limit = self.shape("policy").window
        whole = int(self.prompt) + self.config.sample.max_new_tokens
        return whole if limit is None else min(whole, limit)

    def local(self, device: str) -> Machine:
        """The machine that a device setting means: the CPU's where it says so."""
        if device != "cpu" or self.machine.device == "cpu":
            return self.machine
        return cpu(self.config.threads, "set to cpu")
