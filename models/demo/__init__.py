"""The small pair that ships with the project (`pair/`), the street it speaks about (`world/`) and its training.

Only training imports torch; nothing here imports `app` or `export`.
"""
