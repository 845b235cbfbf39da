"""Which images go through the model at once."""


def batches(items, key, size):
    """Lists of at most `size` items with equal `key`, each in the items' order.

    At most 4 times `size` items wait for others of their kind; then those that have waited longest go on.
    """
    waiting = {}
    for item in items:
        group = waiting.setdefault(key(item), [])
        group.append(item)
        if len(group) == size:
            yield waiting.pop(key(item))
        elif sum(map(len, waiting.values())) >= 4 * size:
            yield waiting.pop(next(iter(waiting)))
    yield from waiting.values()
