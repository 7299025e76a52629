"""Pretraining recipes, one file each, and what they share: masks, losses, the EMA teacher."""
