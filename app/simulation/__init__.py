"""The cost model behind `event-captioner simulate`: every strategy's time to caption from step times alone.

A discrete-event simulation of passes on devices; it runs no model and imports none. `app.decoding.costs` gives it this
machine's measured step times, `devices.py` those of devices that we do not have.
"""
