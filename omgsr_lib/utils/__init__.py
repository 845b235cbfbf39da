"""Tools without a subject of the paper: files, random numbers, memory and its meter, devices, moments."""
