"""Features of every sample of a store as files: what is computed (`run`), how numbers are kept, where they go."""
