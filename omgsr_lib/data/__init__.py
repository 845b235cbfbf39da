"""Training and evaluation data: photographs, crops, the degradation, pairs, public test sets."""
