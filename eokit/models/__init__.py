"""Encoders and their registry. Import `eokit.models.base` and `eokit.models.registry`; families load when asked for."""
