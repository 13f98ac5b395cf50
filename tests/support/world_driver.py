"""Train two models of the generated world at the same time, as `grace` does; each training takes STEPS steps.

Workers import this file again, so they take the same number of steps.

    python world_driver.py STORE STEPS
"""

import sys
from functools import partial

import training.world.models as models
from builders.core.models import on_disk
from builders.core.run import materialise
from training.grace_kto.pipeline import GRACE_KTO
from training.pipelines import load_config

STEPS = int(sys.argv[2])
for name in ("train_base", "train_general"):
    setattr(models, name, partial(getattr(models, name), steps=STEPS))

if __name__ == "__main__":
    config = load_config("tiny", ["workers=2"], sys.argv[1])
    found, _ = materialise(GRACE_KTO, config, {name: f"world:{name}" for name in ("base", "general")})
    for model in found.values():
        print(*sorted(path.name for path in on_disk(model, "the test").path.iterdir()))
