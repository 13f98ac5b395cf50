"""Documents as the conversations that SFT trains on."""

from collections.abc import Mapping, Sequence

from builders.core.prompting import answer, chat
from builders.engines import Message


def conversations_of(
    documents: Sequence[Mapping[str, str]], system: str | None = None
) -> list[dict[str, list[Message]]]:
    """Rows with `query` and `reference` as messages."""
    return [{"prompt": chat(row["query"], system=system), "completion": answer(row["reference"])} for row in documents]
