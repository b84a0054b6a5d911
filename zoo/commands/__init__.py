"""What each console command does once its words are parsed, and what these share: pages, progress, the index on disk."""
