"""Models written in the layouts of other libraries."""
