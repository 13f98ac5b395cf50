"""Whether a token may write where a push would write."""

from typing import Any

import pytest
from hub_server import HubServer
from huggingface_hub import HfApi

from builders.hub.token import writable_namespace
from scorers.errors import UserError


def test_the_users_own_namespace_and_organisations(connected: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert writable_namespace(None) == writable_namespace("alice") == "alice"
    assert writable_namespace("acme") == "acme"
    with pytest.raises(UserError, match="namespace bob: the token of alice may not write there, but to alice, acme"):
        writable_namespace("bob")
    with pytest.raises(UserError, match="namespace local: names a store's own repositories"):
        writable_namespace("local")
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    with pytest.raises(UserError, match=r"the token may only read .* needs one with write rights"):
        writable_namespace(None)
    monkeypatch.setenv("HF_TOKEN", "hf_unknown_secret")
    with pytest.raises(UserError, match="the token: the Hub refuses the token") as caught:
        writable_namespace(None)
    assert "hf_unknown" not in str(caught.value)


def scope(name: str, *permissions: str) -> dict[str, Any]:
    return {"entity": {"type": "user", "name": name}, "permissions": list(permissions)}


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [
        ([scope("alice", "repo.write")], {"alice"}),
        ([scope("acme", "repo.content.read", "repo.write")], {"acme"}),
        ([scope("alice/demo-seed", "repo.write")], {"alice"}),  # whether it is this repository, the Hub says
        ([scope("alice", "repo.content.read"), scope("bob", "repo.write")], set()),
        (None, set()),
    ],
)
def test_a_fine_grained_token_names_where_it_may_write(
    monkeypatch: pytest.MonkeyPatch, scopes: list[dict[str, Any]] | None, allowed: set[str]
) -> None:
    """As whoami-v2 answers; the test Hub knows no fine-grained tokens."""
    token = {"role": "fineGrained", "fineGrained": {"scoped": scopes}}
    orgs = [{"name": "acme", "roleInOrg": "write"}, {"name": "readers", "roleInOrg": "read"}]
    answer = {"name": "alice", "orgs": orgs, "auth": {"accessToken": token}}
    monkeypatch.setenv("HF_TOKEN", "hf_fine_grained")
    monkeypatch.setattr(HfApi, "whoami", lambda self: answer)
    for namespace in ("alice", "acme", "bob", "readers"):
        if namespace in allowed:
            assert writable_namespace(namespace) == namespace
        else:
            with pytest.raises(UserError, match=f"namespace {namespace}: the token of alice may not write there"):
                writable_namespace(namespace)
