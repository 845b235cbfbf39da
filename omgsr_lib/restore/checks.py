"""Checks of the arguments of restoring: each raises a `ValueError` that states the rule and the value received."""

from numbers import Integral


def check_count(name, value):
    """Raise `ValueError` unless `value`, of the argument `name`, is an integer of at least 1."""
    if not (isinstance(value, Integral) and value >= 1):
        raise ValueError(f"{name} must be an integer of at least 1: got {value!r}.")


def check_name(name, value, names, optional=False):
    """Raise `ValueError` unless `value`, of the argument `name`, is one of `names`, or None if it is `optional`."""
    if not (value in names or (optional and value is None)):
        known = ", ".join(names) + (" or None" if optional else "")
        raise ValueError(f"{name} must be one of {known}: got {value!r}.")
