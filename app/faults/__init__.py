"""The fault run: a real service, broker and network source as processes, broken in every way, and the books kept.

Nothing imports it but the command `fault-run`.
"""
