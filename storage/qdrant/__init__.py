"""The joint index in Qdrant: collections, what searches find in them, and the making of the next generation."""
