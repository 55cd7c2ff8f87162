"""Registries around registries: each adds one thing to whatever is inside."""
