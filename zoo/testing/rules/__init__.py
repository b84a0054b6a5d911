"""Rules that several kinds of parts share: comparisons, constructor keywords, gradients and saved states."""
