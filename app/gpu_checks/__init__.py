"""What `bench --gpu-checks` measures on one GPU: a figure a function, each of which also runs tiny on a CPU.

Needs torch, NumPy and `models`; transformers for the peers, dv-processing for the demo pair's windows: where they are
not installed, their rows say so.
"""
