"""Every source of events and frames behind one small contract; pacing and looping wrap a source.

May import nothing of `decoding`, `publishing` or the configuration; `synthetic` alone imports the demo world of
`models`.
"""
