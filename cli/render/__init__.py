"""Results as pictures, HTML pages and explanations."""
