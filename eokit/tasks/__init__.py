"""What is learned from labels: heads, losses, metrics."""
