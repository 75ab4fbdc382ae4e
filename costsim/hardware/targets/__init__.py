"""Where a step is run: one interface for this machine, machines over SSH and microcontrollers.

`base` holds the interface and the names a person types, `job` what is asked; what comes back is an
`Outcome` of `hardware.results`. This machine is here, what goes over SSH in `hardware.ssh`,
microcontrollers in `hardware.boards`; each kind of target is imported only when one is named.
"""
