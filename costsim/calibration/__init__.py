"""Measuring what a device takes for small steps, and fitting its spec to it.

`probes` are the small steps, `choose` picks the next one, `timing` runs it (the only part with
torch), `samples` keeps what was seen, `fit` makes laws of it, `device_file` writes them into a
spec; `session` does all of that, `refine` and `drift` take measurements of real plans.
"""
