"""OMGSR where people already work: each part calls the public interface alone."""
