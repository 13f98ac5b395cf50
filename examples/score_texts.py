"""Score the documents of texts.jsonl: tokens, distinct 4-grams in percent, perplexity.

python examples/score_texts.py MODEL        # a folder or an id such as Qwen/Qwen2.5-0.5B
"""

import json
import sys
from pathlib import Path

from transformers import AutoTokenizer

from scorers import Perplexity, diversity, lengths

model = sys.argv[1]
rows = [json.loads(line) for line in (Path(__file__).parent / "texts.jsonl").read_text(encoding="utf-8").splitlines()]
documents = [row["document"] for row in rows]
token_ids = AutoTokenizer.from_pretrained(model)(documents, add_special_tokens=False)["input_ids"]
perplexities = Perplexity(model).score(documents)  # None for a document of one token
for values in zip(lengths(token_ids), diversity(token_ids), perplexities, documents, strict=True):
    print("{:4d} tokens  {:5.1f} % distinct  perplexity {:8.1f}  {:.40}".format(*values))
