"""The portable C of the kernels, which `costsim.emission` copies into what it writes."""
