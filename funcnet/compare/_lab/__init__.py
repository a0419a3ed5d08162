"""The laboratory: every form a model can take, measured and tried out in one run."""
