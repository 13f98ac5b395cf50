"""A policy carries its training on: without the working folder, in another store, after a push and a pull."""

import logging
import shutil
from pathlib import Path

import pytest
from datasets_factory import add_dataset, scores_frame, weights_frame
from hub_clients import TOKEN
from hub_server import HubServer
from huggingface_hub import constants
from real_configs import config_on
from typer.testing import CliRunner

from builders.core.runner import StageResult
from builders.grace_kto.settings import GraceKTOSettings
from builders.hub.publish import publish
from builders.hub.pull import pull
from builders.inspect.verify import verify
from builders.store.check import require_whole
from builders.store.manifest import TRAINING_STATE, Manifest
from builders.store.ref import Ref
from builders.store.revision import Revision
from builders.store.store import Store
from scorers.errors import UserError
from training.cli import app
from training.pipelines import PIPELINES, build, page_of

pytestmark = pytest.mark.slow

SMALL = (
    "train={method: lora, lora_rank: 2, lora_alpha: 4, lora_dropout: 0.2, batch_size: 4, device_batch_size: 4}",
    "train.learning_rate=1.0e-3",
    "loop.rounds=2",
)


def trained(config: GraceKTOSettings, round_: int, force: bool = False) -> StageResult:
    """A round's policy, on a dataset that the store holds."""
    return build(config, "policy", round_=round_, start=f"local/demo-weights@round-{round_:03d}", force=force)[-1]


def manifest_of(revision: Revision) -> Manifest:
    assert revision.manifest is not None
    return revision.manifest


def adapter(revision: Revision) -> bytes:
    return (revision.path / "adapter_model.safetensors").read_bytes()


def configured(folder: Path, policy: Path, *overrides: str) -> GraceKTOSettings:
    """A configuration, with the weights of two rounds in its store."""
    config = config_on(folder, *SMALL, *overrides, policy=policy)
    store = Store(Path(config.store))
    for round_ in (1, 2):
        lengths = ((40 + round_, 55, 61, None), (70, 52, 52, 90 + round_))
        add_dataset(store, "calibrate", weights_frame(scores_frame(lengths)), round_=round_)
    return config


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, causal_lm_dir: Path
) -> tuple[GraceKTOSettings, StageResult, StageResult]:
    """The two rounds in one store."""
    config = configured(tmp_path_factory.mktemp("undisturbed"), causal_lm_dir)
    return config, trained(config, 1), trained(config, 2)


Undisturbed = tuple[GraceKTOSettings, StageResult, StageResult]


def copied(config: GraceKTOSettings, target: Path, *rounds: int) -> GraceKTOSettings:
    """A copy of a store with the policies of these rounds alone, without the working folder."""
    shutil.copytree(config.store, target, symlinks=True, ignore=shutil.ignore_patterns(".work"))
    store = Store(target)
    for tag in store.refs("local/tiny-policy", "model"):
        if tag not in {f"round-{round_:03d}" for round_ in rounds}:
            (store.repo_path("local/tiny-policy", "model") / "refs" / tag).unlink()
    kept = set(store.refs("local/tiny-policy", "model").values())
    for snapshot in (store.repo_path("local/tiny-policy", "model") / "snapshots").iterdir():
        if snapshot.name not in kept:
            shutil.rmtree(snapshot)
    return config.model_copy(update={"store": str(target)})


def test_a_copied_store_goes_on_without_the_working_folder(undisturbed: Undisturbed, tmp_path: Path) -> None:
    config, first, second = undisturbed
    result = trained(copied(config, tmp_path / "copy", 1), 2)
    assert result.built and result.revision.revision == second.revision.revision
    assert result.revision.digest == second.revision.digest and adapter(result.revision) == adapter(second.revision)
    assert not list((tmp_path / "copy" / ".work").rglob("*.safetensors"))  # no checkpoint is left
    assert "new_optimizer" not in manifest_of(second.revision).counts
    card = (second.revision.path / "README.md").read_text()
    assert "Optimizer and learning-rate schedule went on from the round before." in card
    assert first.revision.revision in {m.revision for m in manifest_of(second.revision).models.values()}


def test_the_folder_that_an_adapter_belongs_to_is_known_by_its_content(
    undisturbed: Undisturbed, causal_lm_dir: Path, tmp_path: Path
) -> None:
    from tiny_models import make_causal_lm

    config = copied(undisturbed[0], tmp_path / "copy", 1)

    def over(model: Path) -> GraceKTOSettings:
        return config.model_copy(update={"models": config.models.model_copy(update={"policy": str(model)})})

    with pytest.raises(
        UserError, match=r"model causal-lm@\w+: was a folder, and no model of this configuration has its"
    ):
        trained(over(make_causal_lm(tmp_path / "other", seed=1)), 2)
    shutil.copytree(causal_lm_dir, tmp_path / "renamed")
    assert trained(over(tmp_path / "renamed"), 2).built


def test_the_state_is_listed_checked_and_no_part_of_the_digest(undisturbed: Undisturbed, tmp_path: Path) -> None:
    _, first, _ = undisturbed
    manifest = manifest_of(first.revision)
    listed = {file.path for file in manifest.training_state or ()}
    assert listed == {f"{TRAINING_STATE}/{name}" for name in
                      ("optimizer.safetensors", "random-0.safetensors", "state.json")}  # fmt: skip
    assert not any(file.path.startswith(TRAINING_STATE) for file in manifest.files)
    assert verify(first.revision, PIPELINES) == []
    bare = manifest.model_copy(update={"training_state": None})
    assert bare.digest == manifest.digest and "training_state" not in bare.to_json()
    copy = tmp_path / "copy"
    shutil.copytree(first.revision.path, copy)
    (copy / TRAINING_STATE / "state.json").write_text("{}")
    with pytest.raises(UserError, match=r"training_state/state\.json"):
        require_whole(manifest, copy, "copy")
    shutil.rmtree(copy / TRAINING_STATE)
    require_whole(bare, copy, "copy")
    with pytest.raises(UserError, match=r"training_state/\S+ is missing"):
        require_whole(manifest, copy, "copy")


def test_a_policy_without_its_state_is_trained_with_a_new_optimizer(
    undisturbed: Undisturbed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, first, second = undisturbed
    other = copied(config, tmp_path / "copy", 1)
    without(Store(tmp_path / "copy"), first.revision)
    caplog.set_level(logging.WARNING)
    result = trained(other, 2)
    warned = [record.getMessage() for record in caplog.records if "optimizer" in record.getMessage()]
    assert len(warned) == 1 and "carries no optimizer state: round 2 begins with a new optimizer" in warned[0]
    assert manifest_of(result.revision).counts == {"new_optimizer": 1}
    assert "this round began with a new optimizer" in (result.revision.path / "README.md").read_text()
    assert adapter(result.revision) != adapter(second.revision)
    rates = [manifest_of(each.revision).results["learning_rate"] for each in (result, second)]
    assert rates[0] == rates[1]


def without(store: Store, revision: Revision) -> None:
    """Put a revision without its training state in the place of one, as a push and a pull do."""
    staged = store.root / ".staged"
    shutil.copytree(revision.path, staged, ignore=shutil.ignore_patterns(TRAINING_STATE))
    manifest = manifest_of(revision).model_copy(update={"training_state": None})
    store.add(staged, manifest, ["main", "round-001"])


def test_a_changed_setting_of_the_run_is_told(undisturbed: Undisturbed, tmp_path: Path) -> None:
    config, _, _ = undisturbed
    other = copied(config, tmp_path / "copy", 1)
    changed = other.model_copy(update={"train": other.train.model_copy(update={"mu": 0.5})})
    with pytest.raises(UserError, match=r"this run began with mu 0\.7, now it is 0\.5; .*keep the setting"):
        trained(changed, 2)


def test_forced_it_trains_the_model_alone_again(undisturbed: Undisturbed, tmp_path: Path) -> None:
    config, first, second = undisturbed
    other = copied(config, tmp_path / "copy", 1, 2)
    assert not trained(other, 2).built
    runner = CliRunner()
    arguments = ["train", "--round", "2", "--dataset", "local/demo-weights", "--revision", "round-002", "--force"]
    overrides = [f"--set={each}" for each in SMALL]
    models = [f"--set=models.{role}={getattr(config.models, role)}" for role in ("policy", "base", "general", "domain")]
    done = runner.invoke(app, [*arguments, *overrides, *models, "--store", other.store], catch_exceptions=False)
    assert done.exit_code == 0 and "forced" in done.stdout, done.stdout
    held = Store(Path(other.store)).refs("local/tiny-policy", "model")
    assert held["round-002"] == second.revision.revision and held["round-001"] == first.revision.revision


def test_a_pulled_policy_is_gone_on_from(causal_lm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("mine", "theirs"):
        (tmp_path / folder).mkdir()
    whole = ("train.method=full", "train.reference=round")  # an adapter on a folder of this machine is not published
    config = configured(tmp_path / "mine", causal_lm_dir, *whole)
    first, second = trained(config, 1), trained(config, 2)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with HubServer() as hub:
        hub.add_token(TOKEN, "alice")
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        publish(first.revision, config, page_of, with_optimizer=True)
        # Somebody else's store, which has that policy and the dataset of the next round.
        other = configured(tmp_path / "theirs", causal_lm_dir, "namespace=alice", *whole)
        pulled = pull(Ref("alice/tiny-policy", "round-001"), Store(Path(other.store)), "model")
    assert pulled.digest == first.revision.digest
    result = trained(other, 2)
    assert result.built and result.revision.digest == second.revision.digest
    assert "new_optimizer" not in manifest_of(result.revision).counts
