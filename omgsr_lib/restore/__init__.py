"""Restoring photographs: in memory, from files, larger than the memory; colours and speed."""
