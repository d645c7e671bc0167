"""The joint index: files, exact and 4-bit IVF-PQ search, builds, and their quality gate."""
