"""The token of the user: is there one, does the Hub know it, and may it write where a push would write."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import get_token

from builders.hub.client import call, client, endpoint
from builders.store.ref import is_local
from scorers.errors import UserError

_WRITE = "repo.write"  # the right of a fine-grained token to create repositories and to write to them


def writable_namespace(namespace: str | None) -> str:
    """Return the namespace that a push writes to, after asking the Hub whether the token may.

    Args:
        namespace: a user or an organisation; None for the token's own user.

    Raises:
        UserError: for no token, one that the Hub does not know, and one without write rights to the namespace.
    """
    if get_token() is None:
        raise UserError("publishing needs a token with write rights: run `hf auth login`, or set HF_TOKEN")
    who: Mapping[str, Any] = call("the token", lambda: _answer(client().whoami()))
    wanted = namespace or str(who["name"])
    if is_local(wanted):
        raise UserError(f"namespace {wanted}: names a store's own repositories and no user of the Hub; set namespace:")
    # A role that is not known here decides nothing: the Hub itself refuses what it does not allow.
    token = _part(_part(who, "auth"), "accessToken")
    role = token.get("role")
    if role == "read":
        raise UserError(
            f"the token may only read on {endpoint()}; publishing to {wanted} needs one with write rights: "
            "run `hf auth login`, or set HF_TOKEN"
        )
    # A user writes in his own namespace and, unless his role there is to read, in those of his organisations.
    open_to = [str(who["name"])] + [str(org.get("name")) for org in who["orgs"] if org.get("roleInOrg") != "read"]
    if role == "fineGrained":
        open_to = _granted(token, open_to)
    if wanted not in open_to:
        allowed = ", ".join(open_to) or "no namespace"
        raise UserError(
            f"namespace {wanted}: the token of {who['name']} may not write there, but to {allowed}; set namespace: to "
            "another, or use another token"
        )
    return wanted


def _answer(value: object) -> dict[str, Any]:
    """Return the Hub's answer; a damaged one counts as transient."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ValueError("the answer names no user")
    orgs = value.get("orgs")
    return {**value, "orgs": [org for org in orgs if isinstance(org, dict)] if isinstance(orgs, list) else []}


def _part(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return a part of an answer that is itself an object; an empty one where it is missing."""
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def _granted(token: Mapping[str, Any], open_to: list[str]) -> list[str]:
    """Return the namespaces in which a fine-grained token may write to a repository at least.

    Such a token names users, organisations and single repositories, `namespace/name`, with its rights to each.
    """
    scopes = _part(token, "fineGrained").get("scoped")
    granted = set()
    for scope in scopes if isinstance(scopes, list) else []:
        if isinstance(scope, dict) and _WRITE in (scope.get("permissions") or []):
            granted.add(str(_part(scope, "entity").get("name")).partition("/")[0])
    return [namespace for namespace in open_to if namespace in granted]
