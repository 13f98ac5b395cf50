"""`grace report`: one self-contained HTML page for people who read preference data."""
