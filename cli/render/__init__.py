"""Contact sheets, HTML pages and explanations of results."""
