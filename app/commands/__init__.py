"""The commands, one a file: each reads its options, asks the packages to do the work, and prints what came of it.

May import everything; what is heavy only inside the function that needs it, so that `--help` is quick.
"""
