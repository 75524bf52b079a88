"""A timeline of one training iteration: what every rank did, and whom it waited for.

``spans`` is the form, ``recorder`` fills it on a rank, ``collectives`` tells it of torch's,
``clock`` relates the ranks' clocks, ``figures`` divides the time, ``chrome``, ``picture`` and
``table`` show it, ``profile`` does all of it for the engine.
"""
