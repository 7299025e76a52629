"""eokit: pretrain, fine-tune, evaluate and map with foundation models on satellite image time series."""

__version__ = "0.1.0"
