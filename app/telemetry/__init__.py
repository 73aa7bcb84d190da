"""Spans on one monotonic clock, metrics and traces. Knows nothing of models or sensors."""
