"""The configuration of a LoRA adapter (PEFT), as far as it names the base model that the adapter belongs to.

In the store the manifest alone says which model that is. PEFT and transformers read the name here and ask the Hub for
it, so it stands here only where the Hub has that model under that name.
"""

import json
from pathlib import Path

from builders.store.files import ADAPTER_CONFIG, write_text
from builders.store.manifest import Model
from builders.store.ref import is_commit, is_local
from builders.store.store import Store
from scorers.errors import UserError


def adapters_in(folder: Path) -> list[Path]:
    """Return the folders of a model's LoRA adapters: its own, or one for each kind of text; none of a whole model."""
    if (folder / ADAPTER_CONFIG).is_file():
        return [folder]
    return sorted(path.parent for path in folder.glob(f"*/{ADAPTER_CONFIG}"))


def with_base(folder: Path, base: Model | None) -> bytes:
    """Return an adapter's configuration that names its base model.

    Args:
        folder: folder of the adapter.
        base: repository and commit on the Hub; None for a model that the Hub does not have, which is not named.

    Returns:
        The file's own bytes where they say so already.

    Raises:
        UserError: for a file that is no JSON object.
    """
    path = folder / ADAPTER_CONFIG
    content = path.read_bytes()
    try:
        value = json.loads(content)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{path}: not an adapter's configuration: no JSON object; make the adapter again")
    named = {
        "base_model_name_or_path": None if base is None else base.id,
        "revision": None if base is None else base.revision,
    }
    if named.items() <= value.items():
        return content
    return (json.dumps(value | named, indent=2, sort_keys=True) + "\n").encode()


def name_base(output: Path, base: Model, store: Store) -> None:
    """Let the configurations of a model's adapters name their base model by repository and commit, or not at all.

    A folder and a model of the store are names of this machine alone: the manifest records them, and stock PEFT must
    not ask the Hub for them.
    """
    held = store.find(base.id, base.revision, "model") if is_commit(base.revision) else None
    on_hub = is_commit(base.revision) and not is_local(base.id) and (held is None or not held.made_here)
    for folder in adapters_in(output):
        write_text(folder / ADAPTER_CONFIG, with_base(folder, base if on_hub else None).decode())
