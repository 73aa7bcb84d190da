"""The two networks and what executes them. Imports neither `app` nor `export`.

Only training, export and the torch runtime import torch.
"""
