"""The training of the adapters: step, loop, batches, checkpoint, several processes, model card."""
