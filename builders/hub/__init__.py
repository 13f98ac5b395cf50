"""The Hugging Face Hub: requests, opening, pulling and publishing revisions."""
