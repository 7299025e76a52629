"""SYNTHETIC seasons that look like crops, for the demo and the tests; nothing here was ever seen by a satellite."""

from eokit.data.synthetic.pastis import write_synthetic_pastis

__all__ = ["write_synthetic_pastis"]
