"""Scores with their uncertainty: kNN, linear probe, fine-tuned models, baselines."""
