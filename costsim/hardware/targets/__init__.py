"""Where a step is run: one interface for this machine, machines over SSH and microcontrollers.

`base` holds the interface and the names a person types, `job` what is asked, `outcome` what comes
back; each kind of target is a file of its own, imported only when one is named.
"""
