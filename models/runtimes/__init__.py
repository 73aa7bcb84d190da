"""What executes a network: one small contract (`contract.py`) and an implementation a file. Imports no `app`."""
