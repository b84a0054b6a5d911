"""Where weights come from: what a source holds, which format it is in, and how it is read into a model."""
