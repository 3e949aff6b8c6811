"""The container half: events, index, prompts and HTTP. Knows tokens and blocks, not containers."""
