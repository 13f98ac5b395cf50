"""Everything that a run imports, which takes ten seconds: the process that forks the runs imports this module once."""

from builders.core.console import quiet_libraries

quiet_libraries()  # before the libraries are there: some print hints when they are imported

import datasets  # noqa: E402, F401, TID253
import FlagEmbedding  # noqa: E402, F401, TID253

import training.grace_kto.evaluate  # noqa: E402
import training.kto.assembly  # noqa: E402
import training.sft.trainer  # noqa: E402, F401
