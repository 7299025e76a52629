"""Layers on eokit.ops: blocks, positions, pooling."""
