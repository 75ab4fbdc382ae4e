"""The C that runs an emitted step on an emulated or a real board (`costsim.c.emulation.build`)."""
