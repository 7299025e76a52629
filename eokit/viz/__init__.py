"""Pictures: quick looks, curves, confusion matrices, maps."""
