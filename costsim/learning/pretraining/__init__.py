"""Meta-training of a backbone as a prototypical network: `costsim pretrain`."""
