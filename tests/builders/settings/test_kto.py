"""Training settings: what YAML gives is taken, what does not fit together is not."""

from typing import Any

import pytest
from pydantic import ValidationError

from builders.settings.kto import TrainSettings


def test_lists_of_yaml_are_tuples() -> None:
    settings = TrainSettings.model_validate({"lambdas": [1, 2.5], "lora_targets": ["q_proj", "v_proj"]})
    assert settings.lambdas == (1.0, 2.5)
    assert settings.lora_targets == ("q_proj", "v_proj")
    assert TrainSettings.model_validate({"lora_targets": "all-linear"}).lora_targets == "all-linear"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 6, "device_batch_size": 4}, "batch_size 6 is not a multiple of device_batch_size 4"),
        ({"learning_rate": 1e-6, "learning_rate_end": 1e-5}, "learning_rate_end 1e-05 is above learning_rate 1e-06"),
        ({"lambdas": [1, -1]}, "expected balanced, or two numbers of at least 0"),
        ({"betta": 0.1}, "Extra inputs are not permitted"),
        ({"batch_size": "8"}, "valid integer"),
    ],
)
def test_what_does_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainSettings.model_validate(changes)


def test_every_setting_says_what_it_is() -> None:
    assert all(field.description for field in TrainSettings.model_fields.values())
