"""The page of `costsim explore`: a plan that follows while one drags its budgets."""
