"""Image files as cameras, phones and scanners write them: bit depths, orientation, profiles, metadata."""
