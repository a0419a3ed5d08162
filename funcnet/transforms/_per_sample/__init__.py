"""Gradients of single examples, and what is computed from them, by one backward pass over the batch."""
