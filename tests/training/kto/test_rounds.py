"""Rounds: one schedule, resume without a trace, policies written whole, mistakes named."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forks import commands, together
from kto_trainers import weights_frame

from builders.settings.kto import TrainSettings
from builders.store.manifest import TRAINING_LOG, TRAINING_STATE
from builders.store.training_log import read_log
from scorers.errors import UserError
from training.kto.rounds import train_round

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]


def settings(**changes: Any) -> Any:
    values = {
        "method": "full",
        "batch_size": 8,
        "device_batch_size": 4,
        "learning_rate": 1e-3,
        "learning_rate_end": 1e-4,
        "reference": "round",
        "save_steps": 2,
        "lora_rank": 4,
        "lora_alpha": 8,
        "precision": "fp32",
    }
    return TrainSettings.model_validate(values | changes)


def run_rounds(
    folder: Path, model: Any, options: Any, rounds: Any = (1, 2), queries: Any = 6, responses: Any = 4, **kwargs: Any
) -> Any:
    """Train the rounds (24 rows, 3 steps each); returns the records."""
    records = []
    for number in rounds:
        records.append(
            train_round(
                policy=model if number == 1 else folder / f"policy-{number - 1}",
                output_dir=folder / f"policy-{number}",
                run_dir=folder / f"run-{number}",
                dataset=weights_frame(queries, responses, unit=False, seed=number, length=8),
                settings=options,
                round=number,
                total_rounds=2,
                **kwargs,
            )
        )
    return records


def weights_file(folder: Path) -> Any:
    (file,) = folder.glob("*.safetensors")
    return file


def stop_at(step: int) -> Any:
    from transformers import TrainerCallback

    class Stop(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == step:
                raise KeyboardInterrupt

    return Stop()


@pytest.mark.parametrize(
    "options", [settings(), settings(method="lora", lora_dropout=0.1, reference="initial")], ids=["full", "lora"]
)
def test_an_interrupted_run_ends_with_the_same_bytes(options: Any, causal_lm_dir: Path, tmp_path: Path) -> None:
    whole = run_rounds(tmp_path / "whole", causal_lm_dir, options)
    broken = tmp_path / "broken"
    for number, step in ((1, 1), (1, 3), (2, 3)):  # before the first checkpoint, after one, after that of round 2
        with pytest.raises(KeyboardInterrupt):
            run_rounds(broken, causal_lm_dir, options, (number,), callbacks=[stop_at(step)])
        assert not (broken / f"policy-{number}").exists()
        if step == 3:
            run_rounds(broken, causal_lm_dir, options, (number,))
            shutil.rmtree(broken / f"run-{number}")  # the next round needs nothing of it
    for number in (1, 2):
        first, second = (tmp_path / run / f"policy-{number}" for run in ("whole", "broken"))
        assert weights_file(first).read_bytes() == weights_file(second).read_bytes()
        for path in (first / TRAINING_STATE).iterdir():
            assert path.read_bytes() == (second / TRAINING_STATE / path.name).read_bytes(), path.name
        assert json.loads((first / "training.json").read_text()) == json.loads((second / "training.json").read_text())
        assert (first / TRAINING_LOG).read_bytes() == (second / TRAINING_LOG).read_bytes()
    # A policy's log has the rounds before, too.
    found = read_log(second / TRAINING_LOG)
    assert found.select("step", "round").rows() == [(step, 1 + step // 4) for step in range(1, 7)]
    assert (
        found.select("loss", "kl", "grad_norm", "learning_rate", "rewards/chosen").null_count().sum_horizontal()[0] == 0
    )
    assert whole[0]["learning_rate"] > whole[1]["learning_rate"]
    assert (
        weights_file(tmp_path / "whole/policy-1").read_bytes() != weights_file(tmp_path / "whole/policy-2").read_bytes()
    )


def test_one_schedule_spans_the_rounds(causal_lm_dir: Path, tmp_path: Path) -> None:
    from training.kto.schedule import learning_rate_factor

    run_rounds(tmp_path, causal_lm_dir, settings())
    rates = []
    for number in (1, 2):
        (last,) = (tmp_path / f"run-{number}").glob("checkpoint-*")
        history = json.loads((last / "trainer_state.json").read_text())["log_history"]
        rates += [entry["learning_rate"] for entry in history if "loss" in entry]
    assert rates == pytest.approx([1e-3 * learning_rate_factor(step, 1, 6, 0.1) for step in range(6)])


def test_a_killed_end_of_a_round_loses_no_state(
    causal_lm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import training.kto.assembly

    options = settings(method="lora", lora_dropout=0.1)
    run_rounds(tmp_path / "whole", causal_lm_dir, options, (1,))

    def fail(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training.kto.assembly, "save_policy", fail)
        with pytest.raises(KeyboardInterrupt):
            run_rounds(tmp_path / "broken", causal_lm_dir, options, (1,))
    run_rounds(tmp_path / "broken", causal_lm_dir, options, (1,))  # from its last checkpoint, without a step
    for path in (tmp_path / "whole/policy-1" / TRAINING_STATE).iterdir():
        assert path.read_bytes() == (tmp_path / "broken/policy-1" / TRAINING_STATE / path.name).read_bytes()


def test_without_the_state_a_round_begins_with_a_new_optimizer(
    causal_lm_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from training.kto.schedule import learning_rate_factor

    options = settings(method="lora")
    whole = run_rounds(tmp_path, causal_lm_dir, options)
    shutil.copytree(tmp_path / "policy-1", tmp_path / "without/policy-1")
    shutil.rmtree(tmp_path / "without/policy-1" / TRAINING_STATE)
    caplog.clear()
    (record,) = run_rounds(tmp_path / "without", causal_lm_dir, options, (2,))
    warned = [r.getMessage() for r in caplog.records if r.levelname == "WARNING" and r.name.startswith("training")]
    (warning,) = warned
    assert warning.endswith("carries no optimizer state: round 2 begins with a new optimizer, at step 3 of 6")
    assert record["new_optimizer"] and not whole[0]["new_optimizer"] and not whole[1]["new_optimizer"]
    assert record["learning_rate"] == whole[1]["learning_rate"] == 1e-3 * learning_rate_factor(5, 1, 6, 0.1)
    assert record["fingerprint"] != whole[1]["fingerprint"]
    new, continued = (weights_file(tmp_path / run / "policy-2").read_bytes() for run in ("without", "."))
    assert new != continued


def test_a_checkpoint_cut_short_is_not_used(
    causal_lm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.kto.assembly import RoundTrainer

    whole = run_rounds(tmp_path / "whole", causal_lm_dir, settings(), (1,))

    def fail(self: object, folder: Path) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(RoundTrainer, "_save_rng_state", fail)
        with pytest.raises(OSError, match="no space"):
            run_rounds(tmp_path / "broken", causal_lm_dir, settings(), (1,))
    assert (tmp_path / "broken/run-1/checkpoint-2/model.safetensors").is_file()
    assert run_rounds(tmp_path / "broken", causal_lm_dir, settings(), (1,)) == whole
    assert (
        weights_file(tmp_path / "broken/policy-1").read_bytes()
        == weights_file(tmp_path / "whole/policy-1").read_bytes()
    )


def test_a_finished_round_is_not_trained_again(causal_lm_dir: Path, tmp_path: Path) -> None:
    first = run_rounds(tmp_path, causal_lm_dir, settings(), (1,))
    assert run_rounds(tmp_path, causal_lm_dir, settings(), (1,)) == first
    with pytest.raises(UserError, match="policy-1 exists and is not this round's result"):
        run_rounds(tmp_path, causal_lm_dir, settings(beta=0.2), (1,))


def test_the_policy_loads_and_carries_no_pickle(causal_lm_dir: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (record,) = run_rounds(tmp_path, causal_lm_dir, settings(), (1,))
    policy = tmp_path / "policy-1"
    AutoModelForCausalLM.from_pretrained(policy)
    assert AutoTokenizer.from_pretrained(policy).chat_template
    assert not {path.suffix for path in policy.iterdir()} & {".bin", ".pt", ".pth", ".md"}
    assert (record["first_step"], record["last_step"], record["rows"]) == (0, 3, 24)
    assert {"loss", "kl", "cross_entropy", "rewards/chosen", "rewards/rejected"} <= record.keys()


def test_the_reference_of_the_first_round_can_be_kept(causal_lm_dir: Path, tmp_path: Path) -> None:
    options = settings(reference="initial")
    with pytest.raises(UserError, match="reference=initial in round 2 of full fine-tuning needs the model"):
        run_rounds(tmp_path, causal_lm_dir, options)
    kept = run_rounds(tmp_path, causal_lm_dir, options, (2,), reference_model=causal_lm_dir)[0]
    with np.load(tmp_path / "run-2/reference.npz") as cache:
        assert cache["ref_logps"].shape == (24,)
    assert kept["rewards/chosen"] != 0


def test_mistakes_are_named(causal_lm_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="24 rows, 3 steps of 8, but the schedule has 4"):
        run_rounds(tmp_path, causal_lm_dir, settings(), (1,), steps_per_round=4)
    with pytest.raises(UserError, match="round 3 is outside 1 to 2"):
        run_rounds(tmp_path, causal_lm_dir, settings(), (3,))
    run_rounds(tmp_path, causal_lm_dir, settings(), (1,))
    with pytest.raises(UserError, match=r"began with mu 0\.1, now it is 0\.5"):
        run_rounds(tmp_path, causal_lm_dir, settings(mu=0.5), (2,))


def test_deepspeed_that_is_not_installed(causal_lm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.memory.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"train\.deepspeed zero2 needs .* pip install 'grace-data\[deepspeed\]'"):
        run_rounds(tmp_path, causal_lm_dir, settings(deepspeed="zero2"), (1,))


def test_an_adapter_is_continued_with_its_own_shape(causal_lm_dir: Path, tmp_path: Path) -> None:
    run_rounds(tmp_path, causal_lm_dir, settings(method="lora"), (1,))
    common = {
        "policy": tmp_path / "policy-1",
        "dataset": weights_frame(6, unit=False, seed=1, length=8),
        "run_dir": tmp_path / "other",
    }
    with pytest.raises(UserError, match="has rank 4, the settings say lora_rank 8"):
        train_round(**common, output_dir=tmp_path / "x", settings=settings(method="lora", lora_rank=8))
    with pytest.raises(UserError, match="is an adapter, which method=full cannot train"):
        train_round(**common, output_dir=tmp_path / "x", settings=settings())
    assert not (tmp_path / "x").exists()


KILLED = """
import os, signal, sys
sys.path[:0] = [{tests!r}, {root!r}]
from pathlib import Path
import test_rounds
import torch
import training.kto.assembly
from transformers import Trainer, TrainerCallback

class Kill(TrainerCallback):
    def __init__(self, where):
        self.where = where

    def on_step_end(self, args, state, control, **kwargs):
        if self.where == str(state.global_step):
            os.kill(os.getpid(), signal.SIGKILL)

for where in {places!r}:
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        if where == "saving":
            Trainer._save_rng_state = lambda self, folder: os.kill(os.getpid(), signal.SIGKILL)
        test_rounds.run_rounds(Path({folder!r}), Path({model!r}), test_rounds.settings(), callbacks=[Kill(where)])
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, where
"""


def test_killed_runs_end_with_the_same_bytes(causal_lm_dir: Path, tmp_path: Path) -> None:
    run_rounds(tmp_path / "whole", causal_lm_dir, settings())
    broken = tmp_path / "broken"
    places = ("1", "saving", "3")
    script = KILLED.format(
        tests=str(Path(__file__).parent), root=str(ROOT), places=places, folder=str(broken), model=str(causal_lm_dir)
    )
    done = commands().run(script, [], tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    run_rounds(broken, causal_lm_dir, settings())
    for number in (1, 2):
        first, second = (weights_file(tmp_path / run / f"policy-{number}") for run in ("whole", "broken"))
        assert first.read_bytes() == second.read_bytes()


ONE_OF_TWO = """
import sys
sys.path[:0] = [{tests!r}, {root!r}]
from pathlib import Path
import test_rounds

for kl, rounds in (("mismatched", (1, 2)), ("matched", (1,))):
    options = test_rounds.settings(device_batch_size=2, mu=0.2, kl=kl)
    test_rounds.run_rounds(Path({folder!r}, kl), Path({model!r}), options, rounds, 7, 3)
"""


def test_two_processes_give_the_same_policy(causal_lm_dir: Path, tmp_path: Path) -> None:
    """21 rows in batches of 8: of the last one's four device batches of 2, two hold rows that are there again."""
    one = []
    for kl, rounds in (("mismatched", (1, 2)), ("matched", (1,))):
        options = settings(device_batch_size=8, mu=0.2, kl=kl)
        one += run_rounds(tmp_path / "one" / kl, causal_lm_dir, options, rounds, 7, 3)
    script = tmp_path / "one_of_two.py"
    paths = {"tests": str(Path(__file__).parent), "root": str(ROOT), "folder": str(tmp_path / "two")}
    script.write_text(ONE_OF_TWO.format(**paths, model=str(causal_lm_dir)))
    done = together(script)
    assert done.returncode == 0, done.stderr[-2000:]
    for record, place in zip(one, ("mismatched/policy-1", "mismatched/policy-2", "matched/policy-1"), strict=True):
        first, second = (load_numpy(weights_file(tmp_path / run / place)) for run in ("one", "two"))
        for name, value in first.items():
            np.testing.assert_allclose(value, second[name], rtol=0, atol=1e-5, err_msg=name)
        other = json.loads((tmp_path / "two" / place / "training.json").read_text())
        for name in ("loss", "kl", "cross_entropy", "rewards/chosen", "rewards/rejected"):
            assert other[name] == pytest.approx(record[name], rel=1e-4, abs=1e-5), name


def load_numpy(file: Any) -> Any:
    from safetensors.numpy import load_file

    return load_file(file)


def test_a_full_gpu_halves_the_batch_once_and_goes_on_at_the_checkpoint(
    causal_lm_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import torch
    from transformers import TrainerCallback

    seen = []

    class Full(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.append((args.per_device_train_batch_size, state.global_step))
            if args.per_device_train_batch_size == 4 and state.global_step == 3:
                raise torch.OutOfMemoryError

    [record] = run_rounds(tmp_path, causal_lm_dir, settings(), (1,), callbacks=[Full()])
    assert seen == [(4, 1), (4, 2), (4, 3), (2, 3)]  # the checkpoint of step 2 is taken up
    assert record["last_step"] == 3 and record["settings"]["device_batch_size"] == 4
    assert "ran out with train.device_batch_size 4: once more with 2" in caplog.text
