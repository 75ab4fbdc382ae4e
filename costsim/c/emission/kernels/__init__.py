"""The portable C of the kernels, which `costsim.c.emission` copies into what it writes."""
