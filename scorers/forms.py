"""The forms that weights can take; apart from their computation, so that settings name them without loading polars."""

from typing import Literal, get_args

Form = Literal["linear", "root", "clipped", "local"]
"""How W follows from z: in proportion (eq. 8–9); in proportion to √|z|; in proportion, but no more than 2 in magnitude;
as z itself, without the step over the dataset. The last three are ours, to see what the weights do."""
FORMS: tuple[Form, ...] = get_args(Form)
