"""The demo world: a seeded street with colour frames, events, truth and captions. Imports NumPy only."""
