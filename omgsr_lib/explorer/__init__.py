"""The timestep explorer: frames computed once, shown in a notebook or as one HTML page."""
