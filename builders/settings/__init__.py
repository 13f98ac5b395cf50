"""Configuration: sections, presets, reading and writing of files."""
