"""Front matter of README.md: parsed for `cardData`, and the checks the Hub makes before a card is committed."""

from collections.abc import Hashable

import yaml

SIZES: tuple[str, ...] = (
    "n<1K",
    "1K<n<10K",
    "10K<n<100K",
    "100K<n<1M",
    "1M<n<10M",
    "10M<n<100M",
    "100M<n<1B",
    "1B<n<10B",
    "10B<n<100B",
)
SIZES += ("100B<n<1T", "n>1T")
LISTS = ("tags", "task_categories", "size_categories", "source_datasets", "annotations_creators", "configs")


class _StrictLoader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"duplicated mapping key {twice.pop()!r}", node.start_mark
            )
        return super().construct_mapping(node, deep)


def front_matter(text: str) -> str | None:
    """The YAML between the two `---` lines at the top; None when there is none."""
    lines = text.removeprefix("\ufeff").splitlines()
    if not lines or lines[0].strip() != "---":
        return None
    ends = [i for i, line in enumerate(lines[1:], 1) if line.strip() == "---"]
    return "\n".join(lines[1 : ends[0]]) if ends else None


def card_data(text: str) -> dict[str, object] | None:
    """The card's metadata; None when absent or unreadable."""
    head = front_matter(text)
    if head is None:
        return None
    try:
        data = yaml.load(head, _StrictLoader)
    except yaml.YAMLError:
        return None
    return data if isinstance(data, dict) else None


def card_tags(data: dict[str, object]) -> list[str]:
    """The tags the Hub derives from a card."""
    tags = []
    for key in ("license", "language", "size_categories", "task_categories", "tags"):
        value = data.get(key)
        for item in value if isinstance(value, list) else [value] if value else []:
            tags.append(str(item) if key == "tags" else f"{key}:{item}")
    return tags


def problems(text: str) -> tuple[list[str], list[str]]:
    """(errors, warnings) of a README.md, one sentence each."""
    head = front_matter(text)
    if head is None:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        data = yaml.load(head, _StrictLoader)
    except yaml.YAMLError as error:
        return [" ".join(str(error).split())], []
    if not isinstance(data, dict):
        return ["the metadata must be a mapping"], []
    errors = [f'"{key}" must be an array' for key in LISTS if key in data and not isinstance(data[key], list)]
    if errors:
        return errors, []
    return _value_errors(data), []


def _value_errors(data: dict[str, object]) -> list[str]:
    errors = []
    if "license" in data and not isinstance(data["license"], str | list):
        errors.append('"license" must be a string')
    if data.get("license") == "other" and not {"license_name", "license_link"} <= data.keys():
        errors.append('"license: other" needs "license_name" and "license_link"')
    sizes, configs = data.get("size_categories", []), data.get("configs", [])
    errors += [f'"size_categories" may not be {size!r}' for size in sizes if size not in SIZES]  # type: ignore[attr-defined]
    names = [item.get("config_name") if isinstance(item, dict) else None for item in configs]  # type: ignore[attr-defined]
    if None in names:
        errors.append('every item of "configs" needs "config_name"')
    elif len(set(names)) < len(names):
        errors.append('"configs" names a config twice')
    return errors
