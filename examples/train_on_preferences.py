"""Weighted KTO on preferences.jsonl in a script of your own: columns prompt, completion, label, weight.

python examples/train_on_preferences.py MODEL OUTPUT        # a folder or an id with a chat template
"""

import sys
from pathlib import Path

from datasets import load_dataset

from training import GraceKTOConfig, GraceKTOTrainer

model, output = sys.argv[1:]
rows = load_dataset("json", data_files=str(Path(__file__).parent / "preferences.jsonl"), split="train")
arguments = GraceKTOConfig(output_dir=output, num_train_epochs=1, per_device_train_batch_size=2, report_to="none")
trainer = GraceKTOTrainer(model=model, args=arguments, train_dataset=rows)
trainer.train()
trainer.save_model(output)
