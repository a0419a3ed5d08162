"""Machinery for DTensors, whose import takes a second: what needs it imports it when it does."""

from funcnet.kernels._placed_kernels import PlacedTensorInterceptor as PlacedTensorInterceptor
