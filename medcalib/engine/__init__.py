"""Training, prediction and evaluation."""
