"""Small tools without a subject of their own: files, random numbers, memory, devices."""
