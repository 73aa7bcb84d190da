"""Every source of events and frames behind one small contract; pacing, seeking and looping wrap a source. Knows no models."""
