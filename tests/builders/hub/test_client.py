"""What of an error reaches the user: one line, without tokens and signatures."""

from builders.hub.client import masked


def test_tokens_and_signatures_are_masked() -> None:
    text = "PUT https://cdn.example/lfs/ab12?X-Amz-Signature=f00&part=1 failed\n(https://cdn.example/x?s=1) hf_abcdefgh"
    assert masked(text) == "PUT https://cdn.example/lfs/ab12?*** failed (https://cdn.example/x?***) hf_***"
    assert masked("is it there? see https://huggingface.co/docs") == "is it there? see https://huggingface.co/docs"
