"""`event-captioner bench`: every ratio that we quote, from one run, against named baselines."""
