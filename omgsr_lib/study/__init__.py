"""How the numbers were made: notebooks in order, ablation, test sets, costs, run records."""
