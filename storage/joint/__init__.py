"""The joint vector: the contract that the indexer and the search engine share."""
