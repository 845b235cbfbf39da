"""Tables, figures and claims from CSV files: no model, no image, seconds."""
