"""Measuring what a device takes for small steps, and fitting its spec to it.

`families` are made-up networks and `probes` small steps of them, `probe_choice` picks the next one,
`timing` runs it (the only part with torch), `samples` keeps what was seen, `fit` makes laws of it,
`device_file` writes them into a spec; `session` does all of that here, `remote` on targets.

`measured_steps` reads measurements of real plans, for the drift and for `refinement`, which makes
a spec better by them: `parts` says what a step's seconds consist of, `attribution` how much longer
each part takes than believed, `power` what the board draws.
"""
